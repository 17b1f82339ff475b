"""What a worker and its trainer child say to each other: one JSON line each, on descriptors of their own.

The child reads requests on the descriptor named by BLUELORA_REQUESTS_FD and writes replies on BLUELORA_REPLIES_FD;
stdout and stderr belong to logs. No pickle: a line that does not parse ends the child.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from core.domain.jobs import Failure, Phase
from core.domain.training import Checkpointed, Evaluated, Progress, TrainSpec

# A Run carries its spec, whose system prompt may have 32,768 characters: 6 bytes each when JSON escapes them.
MAX_LINE_BYTES: Final = 256 * 1024
VERSION: Final = 1

EXIT_USER_ERROR: Final = 64
EXIT_PREEMPTED: Final = 75
"""What the child exits with when it could not say why (sysexits.h: EX_USAGE, EX_TEMPFAIL)."""


class Line(BaseModel):
    """One message; unknown fields are refused, since both sides are of one version."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    version: Literal[1] = VERSION


class Run(Line):
    """Train one attempt. Paths are absolute; folders exist, `output_dir` is empty and on the checkpoints' filesystem."""

    type: Literal["run"] = "run"
    job_id: str
    attempt: int
    spec: TrainSpec
    base_dir: str
    base_fingerprint: str
    template_hash: str
    dataset_path: str
    dataset_sha256: str
    validation_path: str | None = None
    validation_sha256: str | None = None
    checkpoint_dir: str | None = None
    output_dir: str
    device: Literal["cpu", "cuda"]


class Stop(Line):
    """End the attempt at the next step end: `cancel` drops it, `pause` saves a checkpoint, `finish` publishes."""

    type: Literal["stop"] = "stop"
    wish: Literal["cancel", "pause", "finish"]


class Ready(Line):
    """The child has started and waits for a Run. Memory is the device's, in bytes."""

    type: Literal["ready"] = "ready"
    device: str
    memory_bytes: int


class Entered(Line):
    """The attempt entered a phase."""

    type: Literal["entered"] = "entered"
    phase: Phase
    message: str = ""


class Stepped(Line):
    """An optimizer step ended; sent at most once a second, so that a worker can tell slow from stuck."""

    type: Literal["stepped"] = "stepped"
    step: int


class Told(Line):
    """A training event."""

    type: Literal["told"] = "told"
    event: Progress | Evaluated | Checkpointed


class Finished(Line):
    """The attempt is done; `bundle_dir` holds the adapter and its manifest, synced.

    `reason` is `completed`, `early_stopped` or `finished_early`.
    """

    type: Literal["finished"] = "finished"
    bundle_dir: str
    step: int
    trained_tokens: int
    reason: Literal["completed", "early_stopped", "finished_early"]


class Stopped(Line):
    """The attempt ended on request; after `pause` its checkpoint was told before."""

    type: Literal["stopped"] = "stopped"
    wish: Literal["cancel", "pause"]
    step: int
    trained_tokens: int


class Failed(Line):
    """The attempt failed in a way the child could name."""

    type: Literal["failed"] = "failed"
    failure: Failure


Request = Run | Stop
Reply = Ready | Entered | Stepped | Told | Finished | Stopped | Failed

requests: Final[TypeAdapter[Request]] = TypeAdapter(Annotated[Request, Field(discriminator="type")])
replies: Final[TypeAdapter[Reply]] = TypeAdapter(Annotated[Reply, Field(discriminator="type")])


def line(message: Line) -> bytes:
    """Encode a message as one line.

    Raises:
        ValueError: The line would exceed MAX_LINE_BYTES.
    """
    encoded = message.model_dump_json().encode() + b"\n"
    if len(encoded) > MAX_LINE_BYTES:
        raise ValueError(f"a {type(message).__name__} of {len(encoded)} bytes exceeds a line")
    return encoded
