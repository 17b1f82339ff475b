"""The process that counts a data set's tokens: a base's folder on a line and then bytes on stdin, one JSON line on stdout.

It renders every row as the trainer will, and gives way to every other process.
"""

import dataclasses
import gc
import json
import os
import sys
from collections.abc import Iterator
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
    stdin = confinement.stdin()
    folder, rest = _first_line(stdin)
    try:
        renderer = Renderer.load(Path(folder))
        report = Report(counted=tokencounts.count(formats.parse(_chained(rest, stdin)), renderer))
    except Problem as problem:
        sys.stderr.write(f"tokens can't be counted: {problem.code}\n")
        report = Report(counted=None)
    confinement.report(json.dumps(dataclasses.asdict(report)))


def _first_line(chunks: Iterator[bytes]) -> tuple[str, bytes]:
    read = b""
    while b"\n" not in read:
        read += next(chunks)
    line, _, rest = read.partition(b"\n")
    return line.decode(), rest


def _chained(rest: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield rest
    yield from chunks


if __name__ == "__main__":
    main()
