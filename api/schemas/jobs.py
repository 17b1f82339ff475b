"""Jobs, their events and their metrics on the wire."""

import json
from typing import Any, Literal

from pydantic import Field, JsonValue, computed_field, field_validator

from api.schemas.adapters import AdapterRefOut
from api.schemas.lists import Out
from core.domain.jobs import Phase
from core.domain.training import TrainSpec


class ProgressOut(Out):
    """The last thing heard from a running job."""

    step: int
    total_steps: int | None
    epoch: float
    loss: float | None
    tokens_per_second: float | None
    eta_seconds: float | None


class FailureOut(Out):
    """Why a job failed, in words its owner can act on."""

    code: str
    message: str
    failure_class: str
    retryable: bool


class JobOut(Out):
    """A job. `spec` is as sent, `resolved_spec` what is trained; `adapter` is there once the job succeeded."""

    id: str
    object: Literal["job"] = "job"
    name: str
    status: Literal["queued", "running", "pausing", "paused", "succeeded", "failed", "cancelled"] = Field(
        validation_alias="shown_status"
    )
    status_reason: str | None
    phase: Phase = Field(validation_alias="shown_phase")
    progress: ProgressOut
    attempt: int
    max_attempts: int
    failure: FailureOut | None
    adapter: AdapterRefOut | None
    base: str = Field(validation_alias="base_id")
    dataset: str = Field(validation_alias="dataset_id")
    validation_dataset: str | None = Field(validation_alias="validation_dataset_id")
    spec: dict[str, JsonValue] = Field(validation_alias="spec_sent")
    resolved_spec: TrainSpec = Field(validation_alias="spec_resolved")
    priority: int
    metadata: dict[str, str]
    created_by: str
    created_at: int
    started_at: int | None
    ended_at: int | None
    cancel_requested_at: int | None

    @field_validator("spec", mode="before")
    @classmethod
    def _read_sent(cls, text: Any) -> Any:  # noqa: ANN401  (a JSON text, or what it says)
        return json.loads(text) if isinstance(text, str) else text

    @field_validator("resolved_spec", mode="before")
    @classmethod
    def _read_resolved(cls, text: Any) -> Any:  # noqa: ANN401  (a JSON text, or what it says)
        return TrainSpec.model_validate_json(text) if isinstance(text, str) else text


class EventOut(Out):
    """One line of a job's log; `seq` counts from 1 without gaps."""

    object: Literal["job.event"] = "job.event"
    job: str = Field(validation_alias="job_id")
    seq: int
    type: str
    level: str
    message: str
    data: dict[str, JsonValue]
    created_at: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def id(self) -> str:
        """The number as an id, which sorts as it does."""
        return f"ev_{self.seq:06d}"


class MetricOut(Out):
    """What was measured at one step. A line of training has no `eval_loss`, an evaluation has only that."""

    step: int
    epoch: float
    loss: float | None
    learning_rate: float | None
    grad_norm: float | None
    tokens_per_second: float | None
    eval_loss: float | None
    created_at: int
