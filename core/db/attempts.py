"""The ledger: every attempt with its device, the seconds it held it and the tokens it trained."""

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, func, insert, select, update

from core.db import tables
from core.db.clocks import LeaseClock, wall
from core.domain.jobs import Failure, FailureClass
from core.domain.workers import WorkerInfo

_t = tables.attempts


@dataclass(frozen=True, slots=True)
class Attempts:
    """The table of attempts. `gpu_seconds` runs on the lease clock, from the claim to the last sign of life."""

    connection: Connection
    clock: LeaseClock

    def begin(
        self, job_id: str, number: int, *, worker: WorkerInfo, resumed_step: int | None, resumed_tokens: int
    ) -> None:
        """Open the line of one attempt; `resumed_tokens` were trained before the step it goes on from."""
        row = insert(_t).values(
            job_id=job_id,
            number=number,
            worker_id=worker.id,
            device=worker.device,
            gpu_seconds=0.0,
            trained_tokens=0,
            held_since=self.clock.now(),
            started_at=wall(),
            resumed_step=resumed_step,
            resumed_tokens=resumed_tokens,
        )
        self.connection.execute(row)

    def spend(self, job_id: str, number: int, *, trained_tokens: int | None = None) -> None:
        """Bring the line of a living attempt up to now. `trained_tokens` is since the job's start."""
        mine = (_t.c.job_id == job_id, _t.c.number == number)
        row = update(_t).where(*mine).values(gpu_seconds=self.clock.now() - _t.c.held_since)
        if trained_tokens is not None:
            row = row.values(trained_tokens=trained_tokens - _t.c.resumed_tokens)
        self.connection.execute(row)

    def end(self, job_id: str, number: int, *, outcome: str, failure: Failure | None = None) -> None:
        """Close the line of an attempt; `outcome` is a failure class or the status it led to."""
        mine = (_t.c.job_id == job_id, _t.c.number == number)
        kept = None if failure is None else asdict(failure)
        self.connection.execute(update(_t).where(*mine).values(outcome=outcome, failure=kept, ended_at=wall()))

    def speeds(self, base_id: str, *, at_most: int) -> tuple[float, ...]:
        """Tokens a second of the last attempts on a base that trained any, loading and all; the newest first."""
        rows = (
            select(_t.c.trained_tokens / _t.c.gpu_seconds)
            .join(tables.jobs, tables.jobs.c.id == _t.c.job_id)
            .where(
                tables.jobs.c.base_id == base_id,
                _t.c.trained_tokens > 0,
                _t.c.gpu_seconds > 0,
                _t.c.ended_at.is_not(None),
            )
            .order_by(_t.c.job_id.desc(), _t.c.number.desc())
            .limit(at_most)
        )
        return tuple(float(speed) for speed in self.connection.execute(rows).scalars())

    def ended_in(self, job_id: str, failure_class: FailureClass) -> int:
        """Count the attempts of a job that ended in this class."""
        rows = select(func.count()).where(_t.c.job_id == job_id, _t.c.outcome == failure_class.value)
        return self.connection.execute(rows).scalar_one()
