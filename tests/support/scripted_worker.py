"""`python -m worker`, but its trainer plays a script: `python -m tests.support.scripted_worker SCRIPT`."""

import sys
from functools import partial

from worker import app as worker_app
from worker.child import Program


def main() -> None:
    argv = (sys.executable, "-m", "tests.support.scripted_trainer", sys.argv[1])
    setattr(worker_app, "Program", partial(Program, argv=argv))  # noqa: B010  (a class is replaced by a call)
    sys.exit(worker_app.app.start([*worker_app.FLAGS]))


if __name__ == "__main__":
    main()
