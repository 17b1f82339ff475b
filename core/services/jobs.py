"""What is asked and told of jobs; here are looking at them and cancelling.

Submitting is in core/services/submissions.py, the worker's half in attempts.py; all read as `jobs.…`.
"""

from typing import Final

from core.db.clocks import wall
from core.db.jobs import Move
from core.db.transactions import Database, snapshot, transaction
from core.domain import ids
from core.domain.jobs import (
    ENDED,
    Event,
    Job,
    JobAlreadyFinished,
    Metric,
    Status,
)
from core.domain.keys import Caller
from core.domain.pages import Filters, InvalidFilter, Page, cursor
from core.services.attempts import (
    add_checkpoint,
    beat,
    claim,
    enter,
    fail,
    prune,
    reap,
    record,
    reject_checkpoint,
    release,
    runnable,
    succeed,
    tidy,
)
from core.services.lookups import explained, found, unknown
from core.services.submissions import Policy, Submitted, TooManyJobs, name_only, submit

__all__ = [
    "Policy",
    "Submitted",
    "TooManyJobs",
    "add_checkpoint",
    "beat",
    "cancel",
    "claim",
    "counts",
    "enter",
    "events",
    "fail",
    "get",
    "listing",
    "metrics",
    "name_only",
    "prune",
    "reap",
    "record",
    "reject_checkpoint",
    "release",
    "runnable",
    "submit",
    "succeed",
    "tidy",
]

SHOWN: Final = frozenset({*(status.value for status in Status), "pausing"})


def get(job_id: str, *, caller: Caller, database: Database) -> Job:
    """Find one job.

    Raises:
        JobNotFound: The project has none of this id.
    """
    with snapshot(database) as tx:
        return explained(tx, [found(tx, job_id, caller)])[0]


def listing(filters: Filters, *, caller: Caller, database: Database) -> Page[Job]:
    """List the project's jobs, newest first.

    Raises:
        UnknownCursor, InvalidFilter: Of what was asked.
    """
    after = cursor(filters, "job")
    if filters.status is not None and filters.status not in SHOWN:
        known = ", ".join(sorted(SHOWN))
        raise InvalidFilter(f"No job has the status {filters.status[:40]!r}; use one of {known}.", param="status")
    with snapshot(database) as tx:
        page = tx.jobs.page(filters, project_id=caller.project_id, after=after)
        return Page(tuple(explained(tx, page.data)), has_more=page.has_more)


def events(job_id: str, *, caller: Caller, database: Database, after_seq: int = 0, limit: int = 100) -> Page[Event]:
    """Read a job's log in the order it happened, strictly after event `after_seq`.

    Raises:
        JobNotFound: The project has none of this id.
    """
    with snapshot(database) as tx:
        job = found(tx, job_id, caller)
        return tx.events.page(job.id, after_seq=after_seq, limit=limit)


def metrics(job_id: str, *, caller: Caller, database: Database) -> tuple[Metric, ...]:
    """Read everything that was measured of a job, in order.

    Raises:
        JobNotFound: The project has none of this id.
    """
    with snapshot(database) as tx:
        return tx.events.metrics(found(tx, job_id, caller).id)


def counts(*, database: Database) -> dict[Status, int]:
    """Count every project's jobs by stored status."""
    with snapshot(database) as tx:
        return tx.jobs.counts()


def cancel(job_id: str, *, caller: Caller, database: Database) -> Job:
    """Ask that a job stops. One that waits is cancelled at once; a running one when its worker has stopped.

    Asking again changes nothing.

    Raises:
        JobNotFound: The project has none of this id.
        JobAlreadyFinished: It succeeded or failed before.
    """
    with transaction(database) as tx:
        job = tx.jobs.lock(job_id, project_id=caller.project_id) if ids.is_id(job_id, "job") else None
        if job is None:
            raise unknown(job_id)
        if job.status is Status.CANCELLED or (job.status is Status.RUNNING and job.cancel_requested_at):
            return job
        if job.status in ENDED:
            raise JobAlreadyFinished(f"Job {job_id} has {job.status.value} already.")
        if job.status is Status.RUNNING:
            return tx.jobs.ask(job, cancel_at=wall())
        return tx.jobs.move(job, Move(to=Status.CANCELLED, message="The job was cancelled before it ran."))
