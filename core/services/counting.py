"""The process that counts a data set's tokens: a base's folder on a line and then bytes on stdin, one JSON line on stdout.

It renders every row as the trainer will, and gives way to every other process.
"""

import dataclasses
import gc
import json
import os
import sys
from pathlib import Path
from typing import Final

from core.domain import formats
from core.domain.tokens import Report
from core.errors import Problem
from core.services import confinement
from core.text import tokencounts
from core.text.chat import Renderer

NICENESS: Final = 10


def main() -> None:
    """Count the tokens of stdin."""
    os.nice(NICENESS)
    confinement.enter()
    gc.disable()
    try:
        renderer = Renderer.load(Path(confinement.first_line().decode()))
        with confinement.noting_full_disks():
            report = Report(counted=tokencounts.count(formats.parse(confinement.stdin()), renderer))
    except Problem as problem:
        sys.stderr.write(f"tokens can't be counted: {problem.code}\n")
        report = Report(counted=None)
    confinement.report(json.dumps(dataclasses.asdict(report)))


if __name__ == "__main__":
    main()
