"""The process that looks at an upload: bytes on stdin, one JSON line on stdout, nothing else in reach.

`python -m core.services.inspection PARENT_PID MEMORY_BYTES CPU_SECONDS`. It holds no credentials, opens no file, may use so
much memory and time, and dies with whoever started it. It stops reading as soon as the file is refused.
"""

import dataclasses
import json
import sys

from core.domain import inspections, reports
from core.domain.datasets import Inspection
from core.errors import Finding
from core.services import confinement


def main() -> None:
    """Inspect stdin."""
    parent, memory_bytes, cpu_seconds = (int(word) for word in sys.argv[1:])
    confinement.enter(parent, memory_bytes=memory_bytes, cpu_seconds=cpu_seconds)
    try:
        outcome = inspections.inspect(confinement.stdin())
    except (MemoryError, RecursionError):
        outcome = _too_complex()
    sys.stdout.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
    sys.stdout.flush()


def _too_complex() -> Inspection:
    return reports.refused(
        Finding(
            code="too_complex",
            message="Reading the file takes more memory than a data set may.",
            hint="Upload it in parts.",
        )
    )


if __name__ == "__main__":
    main()
