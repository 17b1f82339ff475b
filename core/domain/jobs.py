"""A job's life as data: its statuses, the moves between them, and the values rooms exchange.

Knows no SQL and no clock; core/db/jobs.py is the one writer of status.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

from core.errors import Conflict, NotFound


class Status(StrEnum):
    """Where a job stands. `pausing` is derived (running, with a pause asked for) and never stored."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


NEXT: Final[Mapping[Status, frozenset[Status]]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.PAUSED, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.PAUSED, Status.QUEUED}),
    Status.PAUSED: frozenset({Status.QUEUED, Status.CANCELLED}),
    Status.SUCCEEDED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}
ENDED: Final = frozenset(status for status, moves in NEXT.items() if not moves)


class Phase(StrEnum):
    """What a job is doing now, finer than its status."""

    WAITING = "waiting"
    LOADING = "loading"
    TOKENIZING = "tokenizing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    PUBLISHING = "publishing"
    CANCELLING = "cancelling"


class FailureClass(StrEnum):
    """Why an attempt ended badly; decides whether and when it is tried again (shared rules of `RETRIES`)."""

    USER_ERROR = "user_error"
    NAN_LOSS = "nan_loss"
    OOM = "oom"
    STALLED = "stalled"
    INFRA = "infra"
    WORKER_LOST = "worker_lost"
    PREEMPTED = "preempted"
    DISK_FULL = "disk_full"
    INTEGRITY = "integrity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a job or an attempt failed, in words its owner can act on. Never a traceback, path or secret."""

    code: str
    message: str
    failure_class: FailureClass
    retryable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """How often an attempt of one failure class is tried again, and after how many seconds.

    `delay_s` is doubled at each retry up to MAX_DELAY_S; `charged` says whether the attempt counts against the
    job's cap.
    """

    retries: int
    delay_s: float = 0.0
    charged: bool = True


MAX_DELAY_S: Final = 300.0
MAX_REFUNDS: Final = 100
"""A job that is pre-empted or paused more often than this is charged for it."""
RETRIES: Final[Mapping[FailureClass, RetryRule]] = {
    FailureClass.USER_ERROR: RetryRule(retries=0),
    FailureClass.NAN_LOSS: RetryRule(retries=0),
    FailureClass.OOM: RetryRule(retries=1),
    FailureClass.STALLED: RetryRule(retries=1),
    FailureClass.INFRA: RetryRule(retries=3, delay_s=30.0),
    FailureClass.WORKER_LOST: RetryRule(retries=3),
    FailureClass.PREEMPTED: RetryRule(retries=100, charged=False),
    FailureClass.DISK_FULL: RetryRule(retries=288, delay_s=300.0, charged=False),
    FailureClass.INTEGRITY: RetryRule(retries=3),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProgress:
    """The last thing heard from a running job. `eta_seconds` is None before the first optimizer step."""

    step: int = 0
    total_steps: int | None = None
    epoch: float = 0.0
    loss: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeAdapter:
    """The final adapter of a job: enough to name it and to tell it from any other."""

    id: str
    name: str
    version: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One asked-for training, as stored. Times are Unix seconds.

    `spec_sent` is the JSON that came in, `spec_resolved` the JSON of a complete `TrainSpec`
    (core.domain.training.TrainSpec.model_validate_json reads it). `attempt` only grows; `charged` counts the attempts
    that weigh against `max_attempts`, `refunds` those that were taken off again.
    """

    id: str
    project_id: str
    created_by: str
    status: Status
    phase: Phase
    status_reason: str | None
    priority: int
    spec_sent: str
    spec_resolved: str
    name: str
    base_id: str
    dataset_id: str
    validation_dataset_id: str | None
    metadata: Mapping[str, str]
    progress: JobProgress
    attempt: int
    charged: int = 0
    refunds: int = 0
    max_attempts: int
    failure: Failure | None
    adapter: MadeAdapter | None
    cancel_requested_at: int | None
    pause_requested_at: int | None
    finish_requested_at: int | None
    created_at: int
    started_at: int | None
    ended_at: int | None

    @property
    def shown_status(self) -> str:
        """The status users see: `pausing` while a running job has been asked to pause."""
        pausing = self.status is Status.RUNNING and self.pause_requested_at and not self.cancel_requested_at
        return "pausing" if pausing else self.status.value

    @property
    def shown_phase(self) -> Phase:
        """The phase users see: `cancelling` while a running job has been asked to stop."""
        return Phase.CANCELLING if self.status is Status.RUNNING and self.cancel_requested_at else self.phase


Wish = Literal["go_on", "cancel", "pause", "finish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A job that one worker holds: the fencing token is `attempt`, every write must name it."""

    job: Job
    attempt: int
    worker_id: str
    resume: "Checkpoint | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A published checkpoint: the row is its visibility, the manifest's hash its integrity."""

    job_id: str
    step: int
    attempt: int
    manifest_sha256: str
    bytes: int
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a job's append-only log; `seq` counts from 1 per job without gaps."""

    job_id: str
    seq: int
    type: Literal["status", "message", "metrics", "checkpoint"]
    level: Literal["info", "warn", "error"]
    message: str
    created_at: int
    data: Mapping[str, "str | int | float | None"] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """What was measured at one step. A line of training has no `eval_loss`, an evaluation has only that."""

    step: int
    epoch: float
    loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    eval_loss: float | None = None
    created_at: int


def wish(*, cancel: bool, pause: bool, finish: bool) -> Wish:
    """Say what a running job's worker shall do; the stronger request wins."""
    if cancel:
        return "cancel"
    if pause:
        return "pause"
    return "finish" if finish else "go_on"


def after_attempt(job: Job, wanted: Status) -> Status:
    """Say where a job goes instead of back to the queue when its owner has asked for something else meanwhile.

    A queued job with a request still open would never be claimed, and never end.
    """
    if job.cancel_requested_at and wanted is not Status.SUCCEEDED:
        return Status.CANCELLED
    if job.pause_requested_at and wanted is Status.QUEUED:
        return Status.PAUSED
    return wanted


def retries_again(job: Job, failure_class: FailureClass, *, earlier: int) -> bool:
    """Decide whether an attempt that ended badly is followed by another.

    Args:
        job: As it stands; the attempt that just ended is among `job.charged`.
        failure_class: Why it ended.
        earlier: How many earlier attempts of this job ended in the same class.
    """
    rule = RETRIES[failure_class]
    return earlier < rule.retries and (not rule.charged or job.charged < job.max_attempts)


def retry_delay_s(failure_class: FailureClass, *, earlier: int, jitter: float) -> float:
    """Seconds to wait before the next attempt: doubled each time, five minutes at most, +-20 % by `jitter` in 0..1."""
    delay = min(RETRIES[failure_class].delay_s * 2.0 ** min(earlier, 16), MAX_DELAY_S)
    return delay * (0.8 + 0.4 * jitter)


class JobNotFound(NotFound):
    """No such job in this project."""

    code = "job_not_found"


class JobAlreadyFinished(Conflict):
    """The job has ended; nothing can be asked of it any more."""

    code = "job_already_finished"


class IllegalMove(Exception):
    """A mistake of ours: code asked for a move that NEXT does not have."""


class AttemptLost(Conflict):
    """Another attempt holds the job now: this one has been fenced out and must stop."""

    code = "attempt_lost"


class JobCancelled(AttemptLost):
    """The job was cancelled before its attempt could commit: the request came first, so it wins."""

    code = "job_cancelled"
