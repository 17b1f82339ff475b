"""`python -m worker.health`: exit 0 while a worker of this host is alive by the database, else 1 and why.

A busy worker answers no ping, as its one pool runs the job; its sweep says that it lives all the while. In a
container the host is the container, so it is that worker's own health.
"""

import socket
import sys

from pydantic import ValidationError

from core import runtime
from core.domain.workers import ALIVE_S
from core.errors import Problem
from core.services import workers
from core.settings import Settings


def fault(settings: Settings, *, host: str) -> str | None:
    """Say what is wrong with the worker of a host; None while all is well.

    Raises:
        Problem: The database can't tell.
    """
    database = runtime.open_database(settings)
    try:
        alive = workers.alive(database=database)
    finally:
        database.close()
    if any(worker.host == host for worker in alive):
        return None
    return f"No worker of host {host} was seen in the last {ALIVE_S} s."


def main() -> int:
    """Check the worker of this host, and print what is wrong with it."""
    try:
        found = fault(Settings(), host=socket.gethostname())
    except ValidationError as error:
        # Never the error itself: it repeats what was set, and that may be a password.
        names = sorted({".".join(map(str, each["loc"])) for each in error.errors(include_input=False)})
        found = f"The settings can't be used: {', '.join(names)}."
    except Problem as problem:
        found = problem.detail
    if found is None:
        return 0
    print(found, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
