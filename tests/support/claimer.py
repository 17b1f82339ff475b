"""A process that claims and finishes jobs until none is left, and prints their ids: `python -m tests.support.claimer URL`."""

import sys

from core.db.transactions import connect
from core.services import jobs
from tests.support.worlds import a_new_adapter, a_worker


def main(url: str) -> None:
    database = connect(url)
    worker = a_worker()
    print("ready", flush=True)
    sys.stdin.readline()
    while (held := jobs.claim(worker=worker, database=database, lease_s=30)) is not None:
        jobs.succeed(held, adapter=a_new_adapter(), reason="completed", database=database)
        print(held.job.id)
    database.close()


if __name__ == "__main__":
    main(sys.argv[1])
