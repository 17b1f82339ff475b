"""Find jobs for their owners, and say why the waiting ones wait."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from core.db.transactions import Transaction
from core.domain import ids
from core.domain.jobs import Job, JobNotFound, Status
from core.domain.keys import Caller
from core.domain.workers import capacity

NO_WORKER: Final = "no_capable_worker"


def found(tx: Transaction, job_id: str, caller: Caller) -> Job:
    """Find one job of the caller's project.

    Raises:
        JobNotFound: It has none of this id.
    """
    job = tx.jobs.get(job_id, project_id=caller.project_id) if ids.is_id(job_id, "job") else None
    if job is None:
        raise unknown(job_id)
    return job


def unknown(job_id: str) -> JobNotFound:
    """Say that there is no such job, or none of the caller's: the two look the same."""
    return JobNotFound(f"There is no job {job_id[:60]!r}.")


def explained(tx: Transaction, jobs: Sequence[Job]) -> list[Job]:
    """Say of queued jobs when no living worker could run them: nothing would ever tell otherwise."""
    queued = {job.base_id for job in jobs if job.status is Status.QUEUED}
    if not queued:
        return list(jobs)
    most = capacity(tx.workers.alive())
    sizes = tx.bases.parameters(queued)
    return [
        replace(job, status_reason=NO_WORKER) if job.status is Status.QUEUED and sizes[job.base_id] > most else job
        for job in jobs
    ]
