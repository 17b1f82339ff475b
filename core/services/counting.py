"""The process that counts a data set's tokens: bytes on stdin, one JSON line on stdout.

`python -m core.services.counting PARENT_PID MEMORY_BYTES CPU_SECONDS BASE_DIR`. It renders every row as the trainer will,
confined as the inspecting process is, and gives way to every other process. It reports `null` where the base can't
render conversations.
"""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Final

from core.domain import formats
from core.errors import Problem
from core.services import confinement
from core.text import tokencounts
from core.text.chat import Renderer

NICENESS: Final = 10


def main() -> None:
    """Count the tokens of stdin."""
    parent, memory_bytes, cpu_seconds = (int(word) for word in sys.argv[1:4])
    os.nice(NICENESS)
    confinement.enter(parent, memory_bytes=memory_bytes, cpu_seconds=cpu_seconds)
    try:
        renderer = Renderer.load(Path(sys.argv[4]))
        counted = dataclasses.asdict(tokencounts.count(formats.parse(confinement.stdin()), renderer))
    except Problem as problem:
        sys.stderr.write(f"tokens can't be counted: {problem.code}\n")
        counted = None
    sys.stdout.write(json.dumps(counted) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
