"""How attempts end: where the job goes, and what is written. Used inside a transaction that has locked the job."""

from typing import Final, Literal

from core.db.clocks import wall
from core.db.jobs import Move
from core.db.transactions import Transaction
from core.domain.adapters import Adapter, NewAdapter
from core.domain.jobs import (
    MAX_REFUNDS,
    RETRIES,
    Failure,
    FailureClass,
    Job,
    Status,
    after_attempt,
    retries_again,
    retry_delay_s,
)

Reason = Literal["completed", "early_stopped", "finished_early"]
WORKER_LOST: Final = Failure(
    code="worker_lost",
    message="The worker was lost while it ran this job: its process was killed, or its machine or network failed.",
    failure_class=FailureClass.WORKER_LOST,
    retryable=True,
)
PREEMPTED: Final = Failure(
    code="preempted",
    message="Workers were taken away from this job too often.",
    failure_class=FailureClass.PREEMPTED,
    retryable=True,
)


def after_failure(job: Job, failure: Failure, *, earlier: int, jitter: float) -> Move:
    """Decide where a job goes when its attempt failed.

    Args:
        job: As it stands.
        failure: Of this attempt.
        earlier: How many attempts ended in the same class before.
        jitter: 0 to 1, for the delay.
    """
    kind = failure.failure_class
    again = retries_again(job, kind, earlier=earlier)
    to = after_attempt(job, Status.QUEUED if again else Status.FAILED)
    if to is Status.FAILED:
        return Move(to=to, message=f"The job has failed: {failure.message}", code=failure.code, failure=failure)
    if to is Status.CANCELLED:
        return _cancelled()
    delay_s = retry_delay_s(kind, earlier=earlier, jitter=jitter)
    return Move(
        to=to,
        message=f"Attempt {job.attempt} has failed and will be tried again: {failure.message}",
        code=failure.code,
        status_reason=kind.value,
        delay_s=delay_s,
        refund=not RETRIES[kind].charged,
    )


def after_loss(job: Job) -> Move:
    """Decide where a job goes whose lease ran out: at once back to the queue, until its attempts are used up."""
    return after_failure(job, WORKER_LOST, earlier=0, jitter=0.0)


def after_release(job: Job, to: Status) -> Move:
    """Decide where a job goes that its worker hands back; such an attempt is not charged, within reason."""
    to = after_attempt(job, to)
    refund = job.refunds < MAX_REFUNDS
    match to:
        case Status.CANCELLED:
            return _cancelled()
        case Status.PAUSED:
            return Move(to=to, message="The job is paused.", refund=refund)
        case _ if refund or job.charged < job.max_attempts:
            said = f"Attempt {job.attempt} was stopped by its worker and will go on elsewhere."
            return Move(to=Status.QUEUED, message=said, code="preempted", status_reason="preempted", refund=refund)
        case _:
            said = f"The job has failed: {PREEMPTED.message}"
            return Move(to=Status.FAILED, message=said, code=PREEMPTED.code, failure=PREEMPTED)


def end(tx: Transaction, job: Job, move: Move, *, outcome: str, failure: Failure | None = None) -> Job:
    """Write the end of an attempt: the job's status and event, the ledger, and a hint if it waits again.

    Raises:
        AttemptLost: The job has changed since it was read.
    """
    moved = tx.jobs.move(job, move)
    tx.attempts.end(job.id, job.attempt, outcome=outcome, failure=failure)
    if moved.status is Status.QUEUED and not move.delay_s:
        tx.outbox.add("wake", job_id=job.id)
    return moved


def release(tx: Transaction, job: Job, *, to: Status) -> Job:
    """Write that a worker hands its job back, or has stopped it on request."""
    move = after_release(job, to)
    outcome = move.to.value if move.to in {Status.CANCELLED, Status.PAUSED} else FailureClass.PREEMPTED.value
    return end(tx, job, move, outcome=outcome, failure=move.failure)


def cancel(tx: Transaction, job: Job) -> Job:
    """Write that the job was cancelled when its attempt ended."""
    return end(tx, job, _cancelled(), outcome=Status.CANCELLED.value)


def publish(tx: Transaction, job: Job, new: NewAdapter, *, adapter_id: str, reason: Reason) -> Adapter:
    """Write success: the status first, as it is the fence, then the adapter with the next version of its name."""
    shown = None if reason == "completed" else reason
    moved = end(
        tx,
        job,
        Move(to=Status.SUCCEEDED, message="The job has succeeded.", code=reason, status_reason=shown),
        outcome=Status.SUCCEEDED.value,
    )
    adapter = Adapter(
        id=adapter_id,
        project_id=moved.project_id,
        created_by=moved.created_by,
        kind="final",
        name=moved.name,
        version=tx.adapters.next_version(moved.name, project_id=moved.project_id),
        base_id=moved.base_id,
        job_id=moved.id,
        step=new.step,
        attempt=moved.attempt,
        sha256=new.sha256,
        template_hash=new.template_hash,
        system_prompt=new.system_prompt,
        r=new.r,
        files=new.files,
        manifest=new.manifest,
        metadata=moved.metadata,
        aliases=(),
        created_at=wall(),
    )
    tx.adapters.add(adapter)
    return adapter


def _cancelled() -> Move:
    return Move(to=Status.CANCELLED, message="The job was cancelled.")
