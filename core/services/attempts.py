"""What workers say of jobs: claim one, keep its lease, tell of it, end it.

Every function that takes a `Claim` writes only while that claim holds its job; else it raises AttemptLost, and the
worker must stop. Users' half is core/services/jobs.py.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, Literal, TypeVar, assert_never

from core.db.clocks import wall
from core.db.transactions import Database, snapshot, transaction
from core.domain import ids
from core.domain.adapters import Adapter, NewAdapter
from core.domain.jobs import (
    Checkpoint,
    Claim,
    Event,
    Failure,
    FailureClass,
    Job,
    JobCancelled,
    JobProgress,
    Phase,
    Status,
    Wish,
)
from core.domain.training import Checkpointed, Evaluated, Progress, TrainingEvent
from core.domain.workers import WorkerInfo
from core.services import endings
from core.services.commits import surely
from core.services.endings import Reason

T = TypeVar("T")
REAPED_AT_ONCE: Final = 100


def claim(*, worker: WorkerInfo, database: Database, lease_s: float) -> Claim | None:
    """Take the next job that this worker can run, or None: hints may be doubled or late."""
    with transaction(database) as tx:
        job = tx.jobs.claim(worker, lease_s=lease_s)
        if job is None:
            return None
        resume = next(iter(tx.checkpoints.ready(job.id)), None)
        tokens = 0 if resume is None else tx.events.trained_tokens(job.id, step=resume.step)
        step = None if resume is None else resume.step
        tx.attempts.begin(job.id, job.attempt, worker=worker, resumed_step=step, resumed_tokens=tokens)
    return Claim(job=job, attempt=job.attempt, worker_id=worker.id, resume=resume)


def beat(
    held: Claim, *, database: Database, lease_s: float, phase: Phase | None = None, progress: JobProgress | None = None
) -> Wish:
    """Renew the lease and learn what the job's owner wishes.

    Raises:
        AttemptLost: The claim does not hold the job any more.
    """
    with transaction(database) as tx:
        renewed = tx.jobs.renew(held, lease_s=lease_s, phase=phase, progress=progress)
        tx.attempts.spend(held.job.id, held.attempt)
    return renewed.wish


def enter(held: Claim, phase: Phase, message: str = "", *, database: Database, lease_s: float) -> Wish:
    """Tell which phase the attempt has come to; renews the lease.

    Raises:
        AttemptLost: The claim does not hold the job any more.
    """
    with transaction(database) as tx:
        renewed = tx.jobs.renew(held, lease_s=lease_s, phase=phase, events=1)
        tx.attempts.spend(held.job.id, held.attempt)
        said = message or f"The attempt has come to {phase.value}."
        data = _data(phase=phase.value, attempt=held.attempt)
        tx.events.add(_event(held, renewed.seq, "message", said, data))
    return renewed.wish


def record(held: Claim, event: TrainingEvent, *, database: Database, lease_s: float) -> Wish:
    """Write down what training says; renews the lease.

    A `Checkpointed` must lie published and verified before: its row makes it visible.

    Raises:
        AttemptLost: The claim does not hold the job any more.
    """
    match event:
        case Progress():
            return _measured(held, event, database=database, lease_s=lease_s)
        case Evaluated():
            return _measured(held, event, database=database, lease_s=lease_s)
        case Checkpointed():
            return add_checkpoint(held, event, database=database, lease_s=lease_s)
        case _:
            assert_never(event)


def add_checkpoint(held: Claim, published: Checkpointed, *, database: Database, lease_s: float) -> Wish:
    """Make a published checkpoint visible; telling of it twice changes nothing.

    Raises:
        AttemptLost: The claim does not hold the job any more.
    """
    checkpoint = Checkpoint(
        job_id=held.job.id,
        step=published.step,
        attempt=held.attempt,
        manifest_sha256=published.manifest_sha256,
        bytes=published.bytes,
        created_at=wall(),
    )
    with transaction(database) as tx:
        wish = tx.jobs.renew(held, lease_s=lease_s).wish
        if tx.checkpoints.add(checkpoint):
            seq = tx.jobs.renew(held, lease_s=lease_s, events=1).seq
            data = _data(step=published.step, attempt=held.attempt, bytes=published.bytes)
            said = f"The checkpoint of step {published.step} is published."
            tx.events.add(_event(held, seq, "checkpoint", said, data))
    return wish


def reject_checkpoint(held: Claim, checkpoint: Checkpoint, *, database: Database, lease_s: float) -> Checkpoint | None:
    """Take a checkpoint that failed verification out of use; give the one before it, if there is one.

    Raises:
        AttemptLost: The claim does not hold the job any more.
    """
    with transaction(database) as tx:
        seq = tx.jobs.renew(held, lease_s=lease_s, events=1).seq
        tx.checkpoints.set_state(checkpoint, "corrupt")
        said = f"The checkpoint of step {checkpoint.step} is damaged and will not be used."
        data = _data(step=checkpoint.step, attempt=held.attempt, code=FailureClass.INTEGRITY.value)
        tx.events.add(_event(held, seq, "checkpoint", said, data, level="warn"))
        return next(iter(tx.checkpoints.ready(held.job.id)), None)


def prune(held: Claim, *, database: Database, lease_s: float, keep: int = 2) -> tuple[Checkpoint, ...]:
    """Drop the rows of all but the furthest `keep` checkpoints; give the dropped, whose bytes may go now.

    Raises:
        AttemptLost: The claim does not hold the job any more.
    """
    with transaction(database) as tx:
        tx.jobs.renew(held, lease_s=lease_s)
        dropped = tx.checkpoints.ready(held.job.id)[keep:]
        for checkpoint in dropped:
            tx.checkpoints.set_state(checkpoint, "dropped")
    return dropped


def succeed(
    held: Claim, *, adapter: NewAdapter, reason: Reason, database: Database, trained_tokens: int | None = None
) -> Adapter:
    """Register the job's one final adapter and end the job, in one transaction.

    Args:
        held: The claim; its bundle's files are in the object store already.
        adapter: What the bundle says.
        reason: Why training ended.
        database: Where it is written.
        trained_tokens: Since the job's start, where known.

    Raises:
        JobCancelled: The owner's request was committed first; the job is cancelled and has no adapter.
        AttemptLost: The claim does not hold the job any more.
    """
    adapter_id = ids.new("ad")

    def publish() -> Adapter | None:
        with transaction(database) as tx:
            job = tx.jobs.held(held)
            tx.attempts.spend(job.id, held.attempt, trained_tokens=trained_tokens)
            if job.cancel_requested_at:
                endings.cancel(tx, job)
                return None
            return endings.publish(tx, job, adapter, adapter_id=adapter_id, reason=reason)

    def published() -> Adapter | None:
        with snapshot(database) as tx:
            found = tx.adapters.final_of(held.job.id)
        return found if found is not None and found.id == adapter_id else None

    made = surely(publish, known=published)
    if made is None:
        raise JobCancelled(f"Job {held.job.id} was cancelled before its adapter was registered.")
    return made


def fail(held: Claim, failure: Failure, *, database: Database) -> Job:
    """End an attempt that failed: back to the queue if its class is tried again, else the job has failed.

    Raises:
        AttemptLost: The claim does not hold the job any more.
    """

    def give_up() -> Job:
        with transaction(database) as tx:
            job = tx.jobs.held(held)
            tx.attempts.spend(job.id, held.attempt)
            earlier = tx.attempts.ended_in(job.id, failure.failure_class)
            move = endings.after_failure(job, failure, earlier=earlier, jitter=random.random())
            return endings.end(tx, job, move, outcome=failure.failure_class.value, failure=failure)

    return surely(give_up, known=lambda: _ended(held, database))


def release(held: Claim, *, to: Literal[Status.CANCELLED, Status.PAUSED, Status.QUEUED], database: Database) -> Job:
    """End an attempt on request: cancelled, paused, or (a worker that leaves) back to the queue.

    What the owner asked meanwhile wins over going back to the queue.

    Raises:
        AttemptLost: The claim does not hold the job any more.
    """

    def let_go() -> Job:
        with transaction(database) as tx:
            job = tx.jobs.held(held)
            tx.attempts.spend(job.id, held.attempt)
            return endings.release(tx, job, to=to)

    return surely(let_go, known=lambda: _ended(held, database))


def reap(database: Database) -> int:
    """Take back the jobs of workers that are gone: their leases ran out. Give the number of jobs."""
    with transaction(database) as tx:
        lost = tx.jobs.expired(REAPED_AT_ONCE)
        for job in lost:
            move = endings.after_loss(job)
            endings.end(tx, job, move, outcome=FailureClass.WORKER_LOST.value, failure=endings.WORKER_LOST)
    return len(lost)


def runnable(
    database: Database, *, older_than_s: float = 10.0, limit: int = 100, worker: WorkerInfo | None = None
) -> list[str]:
    """List jobs that have been ready for this long, so that someone should be woken for them.

    With `worker`, only those that it can run itself.
    """
    with snapshot(database) as tx:
        return tx.jobs.runnable(older_than_s=older_than_s, limit=limit, worker=worker)


def tidy(database: Database) -> None:
    """Forget what is kept for a day only: idempotency keys, sent hints, workers that are gone."""
    with transaction(database) as tx:
        tx.idempotency.purge()
        tx.outbox.purge()
        tx.workers.purge()


def _measured(held: Claim, event: Progress | Evaluated, *, database: Database, lease_s: float) -> Wish:
    progress = _progress(event) if isinstance(event, Progress) else None
    phase = Phase.TRAINING if isinstance(event, Progress) else None
    with transaction(database) as tx:
        renewed = tx.jobs.renew(held, lease_s=lease_s, phase=phase, progress=progress, events=1)
        tokens = event.trained_tokens if isinstance(event, Progress) else None
        tx.attempts.spend(held.job.id, held.attempt, trained_tokens=tokens)
        data = {name: _finite(value) for name, value in asdict(event).items()}
        tx.events.add(_event(held, renewed.seq, "metrics", _said(event), data))
    return renewed.wish


def _said(event: Progress | Evaluated) -> str:
    if isinstance(event, Progress):
        return f"Step {event.step}/{event.total_steps}: loss {event.loss:.4f}"
    return f"Step {event.step}: evaluation loss {event.eval_loss:.4f}"


def _progress(event: Progress) -> JobProgress:
    return JobProgress(
        step=event.step,
        total_steps=event.total_steps,
        epoch=event.epoch,
        loss=_finite(event.loss),
        tokens_per_second=_finite(event.tokens_per_second),
        eta_seconds=_finite(event.eta_seconds),
    )


def _finite(value: float) -> float | None:
    """JSON has no infinities: PostgreSQL would refuse the row, a browser the answer."""
    return value if math.isfinite(value) else None


def _data(**facts: str | float | None) -> Mapping[str, str | int | float | None]:
    return facts


def _event(
    held: Claim,
    seq: int,
    kind: Literal["message", "metrics", "checkpoint"],
    message: str,
    data: Mapping[str, str | int | float | None],
    *,
    level: Literal["info", "warn"] = "info",
) -> Event:
    return Event(job_id=held.job.id, seq=seq, type=kind, level=level, message=message, created_at=wall(), data=data)


def _ended(held: Claim, database: Database) -> Job | None:
    with snapshot(database) as tx:
        job = tx.jobs.get(held.job.id)
        ours = job is not None and job.attempt == held.attempt and job.status is not Status.RUNNING
    return job if ours else None
