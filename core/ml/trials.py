"""A foreign chat template, tried once before its folder becomes a base: in a process of its own, as it may never end.

`python -m core.ml.trials FOLDER` writes one prompt with the folder's own template. Knows no weights.
"""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Final

from core import tether
from core.domain.checkpoints import DamagedCheckpoint
from core.domain.datasets import Turn
from core.errors import Problem
from core.text.chat import Renderer

LIMIT_S: Final = 20
MEMORY_BYTES: Final = 2 * 2**30
REFUSED: Final = 3


def check(folder: Path) -> None:
    """See that the chat template of a Llama folder writes a prompt.

    Raises:
        DamagedCheckpoint: It does not, or takes too long or too much memory.
    """
    command = tether.command([sys.executable, "-m", "core.ml.trials", str(folder), str(LIMIT_S)])
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    if done.returncode == REFUSED:
        raise DamagedCheckpoint(f"The folder's chat template can't be used: {done.stdout.strip()[:300]}")
    if done.returncode:
        raise DamagedCheckpoint(
            f"The folder's chat template writes no prompt within {LIMIT_S} s and {MEMORY_BYTES >> 30} GiB; mend or remove it."
        )


def main(folder: Path, limit_s: int) -> int:
    """Write one prompt, under limits on time and memory."""
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        Renderer.load(folder).prompt([Turn("user", "你好")])
    except Problem as problem:
        print(problem.detail)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
