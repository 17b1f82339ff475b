"""The process that looks at an uploaded data set: bytes on stdin, one JSON line on stdout, nothing else in reach.

It stops reading as soon as the file is refused.
"""

import dataclasses
import json

from core.domain import inspections
from core.domain.datasets import Inspection
from core.errors import Finding
from core.services import confinement


def main() -> None:
    """Inspect stdin."""
    confinement.enter()
    try:
        outcome = inspections.inspect(confinement.stdin())
    except (MemoryError, RecursionError):
        outcome = _too_complex()
    confinement.report(json.dumps(dataclasses.asdict(outcome)))


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
