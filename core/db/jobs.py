"""Jobs, and the one writer of their status.

Every change of status goes through `Jobs.move` or `Jobs.claim`: one UPDATE that names the id, the attempt and the
status it starts from, and one event with the number that this UPDATE gave. No row means fenced out.
Knows no rules about retries: core/services decides, this writes.
"""

from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, func, insert, or_, select, update

from core.db import job_rows, lists, queue, tables
from core.db.clocks import LeaseClock, wall
from core.db.events import Events
from core.domain.jobs import (
    ENDED,
    NEXT,
    AttemptLost,
    Claim,
    Event,
    Failure,
    IllegalMove,
    Job,
    JobProgress,
    Phase,
    Status,
    Wish,
    wish,
)
from core.domain.pages import Filters, Page
from core.domain.workers import WorkerInfo

_t: Final = tables.jobs
_OPEN: Final = _t.c.status.not_in([status.value for status in ENDED])


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The facts of one change of status. `refund` takes the attempt off the job's cap again."""

    to: Status
    message: str
    code: str | None = None
    status_reason: str | None = None
    failure: Failure | None = None
    delay_s: float = 0.0
    refund: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """What a renewed lease brings back: the owner's wish, and the number of the last event."""

    wish: Wish
    seq: int


@dataclass(frozen=True, slots=True)
class Jobs:
    """The table of jobs."""

    connection: Connection
    clock: LeaseClock

    def add(self, job: Job, *, spec_sha256: str) -> None:
        """Insert a queued job with its first event."""
        row = insert(_t).values(
            **job_rows.columns(job),
            spec_sha256=spec_sha256,
            not_before=self.clock.now(),
            lease_until=0.0,
            boot_id=self.clock.boot_id,
            event_seq=1,
        )
        self.connection.execute(row)
        self._note(job, seq=1, previous=None, move=Move(to=Status.QUEUED, message="The job is queued."))

    def get(self, job_id: str, *, project_id: str | None = None) -> Job | None:
        """Find a job, of one project or of any."""
        row = self.connection.execute(job_rows.visible(project_id).where(_t.c.id == job_id)).one_or_none()
        return None if row is None else job_rows.job(row)

    def lock(self, job_id: str, *, project_id: str | None = None) -> Job | None:
        """Find a job and keep others from changing it until the transaction ends."""
        rows = job_rows.visible(project_id).where(_t.c.id == job_id).with_for_update(of=_t)
        row = self.connection.execute(rows).one_or_none()
        return None if row is None else job_rows.job(row)

    def held(self, claim: Claim) -> Job:
        """Lock the job that this claim holds.

        Raises:
            AttemptLost: It does not hold it any more.
        """
        job = self.lock(claim.job.id)
        if job is None or job.attempt != claim.attempt or job.status is not Status.RUNNING:
            raise _lost(claim.job.id, claim.attempt)
        return job

    def page(self, filters: Filters, *, project_id: str, after: str | None) -> Page[Job]:
        """List a project's jobs; `filters.status` is one that users see."""
        rows = job_rows.visible(project_id)
        if filters.status is not None:
            rows = rows.where(job_rows.shown_as(filters.status))
        return lists.page(self.connection, rows, _t, filters, after=after, value=job_rows.job)

    def waiting(self, project_id: str) -> int:
        """Count a project's queued jobs."""
        rows = select(func.count()).where(_t.c.project_id == project_id, _t.c.status == Status.QUEUED.value)
        return self.connection.execute(rows).scalar_one()

    def named(self, name: str) -> bool:
        """Say whether a job that has not ended will give its adapter this name, in whatever project."""
        return self._any(_t.c.name == name, _OPEN)

    def counts(self) -> dict[Status, int]:
        """Count every project's jobs by status."""
        rows = select(_t.c.status, func.count()).where(_t.c.deleted_at.is_(None)).group_by(_t.c.status)
        found = {Status(row[0]): int(row[1]) for row in self.connection.execute(rows)}
        return {status: found.get(status, 0) for status in Status}

    def move(self, job: Job, move: Move) -> Job:
        """Write one change of status and its event.

        Args:
            job: As it was read: its attempt and status are the fence.
            move: Where it goes, and why; `running` is for `claim` alone.

        Raises:
            IllegalMove: NEXT has no such move; nothing is written.
            AttemptLost: The job is not any more what it was when it was read; nothing is written.
        """
        if move.to not in NEXT[job.status] or move.to is Status.RUNNING:
            raise IllegalMove(f"a {job.status} job can't become {move.to}")
        fence = (_t.c.id == job.id, _t.c.attempt == job.attempt, _t.c.status.in_([job.status.value]))
        changes = self._changes(move)
        row = self.connection.execute(
            update(_t).where(*fence).values(**changes).returning(_t.c.event_seq)
        ).one_or_none()
        if row is None:
            raise _lost(job.id, job.attempt)
        self._note(job, seq=row.event_seq, previous=job.status, move=move)
        return self._reread(job.id)

    def claim(self, worker: WorkerInfo, *, lease_s: float) -> Job | None:
        """Hold the next job this worker can run, if there is one: attempt + 1, charged + 1, a lease of `lease_s`."""
        values = {
            "status": Status.RUNNING.value,
            "phase": Phase.LOADING.value,
            "status_reason": None,
            "worker_id": worker.id,
            "attempt": _t.c.attempt + 1,
            "charged": _t.c.charged + 1,
            "lease_until": self.clock.now() + lease_s,
            "boot_id": self.clock.boot_id,
            "heartbeat_at": wall(),
            "started_at": func.coalesce(_t.c.started_at, wall()),
            "event_seq": _t.c.event_seq + 1,
        }
        chosen = (_t.c.id == queue.next_for(worker, clock=self.clock), _t.c.status == Status.QUEUED.value)
        claimed = update(_t).where(*chosen).values(**values).returning(_t.c.id, _t.c.event_seq)
        row = self.connection.execute(claimed).one_or_none()
        if row is None:
            return None
        job = self._reread(row.id)
        message = f"Attempt {job.attempt} has started on {worker.device}."
        self._note(job, seq=row.event_seq, previous=Status.QUEUED, move=Move(to=Status.RUNNING, message=message))
        return job

    def renew(
        self,
        claim: Claim,
        *,
        lease_s: float,
        phase: Phase | None = None,
        progress: JobProgress | None = None,
        events: int = 0,
    ) -> Renewed:
        """Renew the lease, store what is new, take numbers for new events, and read what the owner wishes.

        Raises:
            AttemptLost: The claim does not hold the job any more.
        """
        values: dict[str, Any] = {"lease_until": self.clock.now() + lease_s, "heartbeat_at": wall()}
        if phase is not None:
            values["phase"] = phase.value
        if progress is not None:
            values |= {"progress": asdict(progress), "progress_at": wall()}
        if events:
            values["event_seq"] = _t.c.event_seq + events
        mine = (_t.c.id == claim.job.id, _t.c.attempt == claim.attempt, _t.c.status == Status.RUNNING.value)
        asked = (_t.c.cancel_requested_at, _t.c.pause_requested_at, _t.c.finish_requested_at, _t.c.event_seq)
        row = self.connection.execute(update(_t).where(*mine).values(**values).returning(*asked)).one_or_none()
        if row is None:
            raise _lost(claim.job.id, claim.attempt)
        cancel, pause, finish = (at is not None for at in row[:3])
        return Renewed(wish=wish(cancel=cancel, pause=pause, finish=finish), seq=row.event_seq)

    def ask(self, job: Job, *, cancel_at: int) -> Job:
        """Note on a running job's row that its owner wants it cancelled: a request, which its worker acts on."""
        mine = (_t.c.id == job.id, _t.c.status == Status.RUNNING.value)
        self.connection.execute(update(_t).where(*mine).values(cancel_requested_at=cancel_at))
        return self._reread(job.id)

    def expired(self, limit: int) -> list[Job]:
        """Lock the running jobs whose lease ran out, or is of an earlier boot; those others lock are passed over."""
        gone = or_(_t.c.lease_until < self.clock.now(), _t.c.boot_id != self.clock.boot_id)
        rows = job_rows.visible(None).where(_t.c.status == Status.RUNNING.value, gone).limit(limit)
        found = self.connection.execute(rows.with_for_update(skip_locked=True, of=_t)).all()
        return [job_rows.job(row) for row in found]

    def runnable(self, *, older_than_s: float, limit: int, worker: WorkerInfo | None = None) -> list[str]:
        """List jobs that have been ready for longer than this, of those that `worker` can run: their hint may be lost."""
        rows = select(queue.waiting.c.id).where(*queue.ready(self.clock, older_than_s=older_than_s))
        if worker is not None:
            base = tables.bases.c.id == queue.waiting.c.base_id
            rows = rows.join(tables.bases, base).where(tables.bases.c.parameters <= worker.max_parameters)
        return list(self.connection.execute(rows.order_by(queue.waiting.c.id).limit(limit)).scalars())

    def _any(self, *conditions: ColumnElement[bool]) -> bool:
        return self.connection.execute(select(_t.c.id).where(*conditions).limit(1)).first() is not None

    def _reread(self, job_id: str) -> Job:
        return job_rows.job(self.connection.execute(job_rows.visible(None).where(_t.c.id == job_id)).one())

    def _changes(self, move: Move) -> dict[str, Any]:
        values: dict[str, Any] = {
            "status": move.to.value,
            "status_reason": move.status_reason,
            "failure": None if move.failure is None else asdict(move.failure),
            "event_seq": _t.c.event_seq + 1,
        }
        if move.to in ENDED:
            values["ended_at"] = wall()
        else:
            values |= {"phase": Phase.WAITING.value, "not_before": self.clock.now() + move.delay_s}
            values |= {"boot_id": self.clock.boot_id, "pause_requested_at": None}
        if move.refund:
            values |= {"charged": _t.c.charged - 1, "refunds": _t.c.refunds + 1}
        return values

    def _note(self, job: Job, *, seq: int, previous: Status | None, move: Move) -> None:
        data = {
            "status": move.to.value,
            "previous": None if previous is None else previous.value,
            "attempt": job.attempt,
            "code": move.code,
        }
        level: Final = "error" if move.to is Status.FAILED else "info"
        event = Event(
            job_id=job.id, seq=seq, type="status", level=level, message=move.message, created_at=wall(), data=data
        )
        Events(self.connection).add(event)


def _lost(job_id: str, attempt: int) -> AttemptLost:
    return AttemptLost(f"Attempt {attempt} does not hold job {job_id} any more.")
