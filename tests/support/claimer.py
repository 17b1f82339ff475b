"""A process that claims and finishes jobs until none is left, and prints their ids: `python -m tests.support.claimer URL`."""

import sys
from contextlib import suppress

from core.db.transactions import Database, DatabaseUnavailable, connect
from core.domain.jobs import Claim
from core.domain.workers import WorkerInfo
from core.services import jobs
from tests.support.worlds import a_new_adapter, a_worker


def main(url: str) -> None:
    database = connect(url)
    worker = a_worker()
    print("ready", flush=True)
    sys.stdin.readline()
    while (held := next_job(database, worker)) is not None:
        jobs.succeed(held, adapter=a_new_adapter(), reason="completed", database=database)
        print(held.job.id)
    database.close()


def next_job(database: Database, worker: WorkerInfo) -> Claim | None:
    """Claim as a worker does: a file that others keep busy (SQLite's waiting is unfair) is asked again."""
    for _ in range(10):
        with suppress(DatabaseUnavailable):
            return jobs.claim(worker=worker, database=database, lease_s=60)
    raise DatabaseUnavailable("The file was busy ten times in a row.")


if __name__ == "__main__":
    main(sys.argv[1])
