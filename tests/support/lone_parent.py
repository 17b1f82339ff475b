"""A process that spawns one scripted trainer, prints its id, and waits to be killed: `… FOLDER`."""

import sys
import time
from pathlib import Path

from worker.child import Child, Program


def main() -> None:
    argv = (sys.executable, "-m", "tests.support.scripted_trainer", "[[]]")
    child = Child.spawn(Program(log_path=Path(sys.argv[1]) / "trainer.log", argv=argv))
    child.wait_ready()
    print(child.pid, flush=True)
    time.sleep(60)


if __name__ == "__main__":
    main()
