"""The process that looks at an upload: bytes on stdin, one JSON line on stdout, nothing else in reach.

`python -m core.services.inspection PARENT_PID MEMORY_BYTES CPU_SECONDS`. It holds no credentials, opens no file, may use so
much memory and time, and dies with whoever started it. It stops reading as soon as the file is refused.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator
from typing import Final

from core.domain import inspections
from core.domain.datasets import Inspection
from core.errors import Finding
from core.services import confinement

READ_BYTES: Final = 2**18


def main() -> None:
    """Inspect stdin."""
    confinement.confine()
    try:
        outcome = inspections.inspect(_stdin())
    except (MemoryError, RecursionError):
        outcome = _too_complex()
    sys.stdout.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
    sys.stdout.flush()


def _stdin() -> Iterator[bytes]:
    while chunk := os.read(0, READ_BYTES):
        yield chunk


def _too_complex() -> Inspection:
    return inspections.refused(
        Finding(
            code="too_complex",
            message="Reading the file takes more memory than a data set may.",
            hint="Upload it in parts.",
        )
    )


if __name__ == "__main__":
    main()
