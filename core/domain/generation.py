"""What a caller asks of a model: messages and sampling. Defaults are BlueLM's own demo (greedy, 512, penalty 1.1)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from core.domain.adapters import Adapter
from core.domain.bases import Base
from core.domain.written import Written
from core.errors import Conflict, Invalid, NotFound, Overloaded, Unavailable


class Message(Written):
    """One turn of a conversation. Special strings in `content` are encoded as text, never as control tokens."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=1_000_000)]


class Sampling(Written):
    """How the next token is chosen. `temperature` 0 is greedy; then `top_p`, `top_k` and `seed` mean nothing."""

    max_tokens: Annotated[int, Field(ge=1, le=1_048_576)] = 512
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] = 50
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] = 1.1
    stop: Annotated[list[Annotated[str, StringConstraints(min_length=1, max_length=64)]], Field(max_length=4)] = Field(
        default_factory=list
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Who answers: a base, alone or with an adapter that was trained on it."""

    base: Base
    adapter: Adapter | None

    @property
    def reference(self) -> str:
        """The name that means exactly this answerer for ever."""
        return self.base.name if self.adapter is None else self.adapter.reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some more of an answer; `completion_tokens` counts from its start. The last piece has a `finish_reason`."""

    text: str
    completion_tokens: int
    finish_reason: Literal["stop", "length"] | None = None


class ModelNotFound(NotFound):
    """No base and no adapter of this name."""

    code = "model_not_found"


class InvalidMessages(Invalid):
    """Roles out of order, an empty last user turn, or no user turn at all."""

    code = "invalid_messages"


class PromptTooLong(Invalid):
    """The prompt and the asked-for answer do not fit the base's context."""

    code = "context_length_exceeded"


class QueueFull(Overloaded):
    """The engine takes no more requests now."""

    code = "queue_full"


class EngineUnavailable(Unavailable):
    """No engine that serves this base answers."""

    code = "engine_unavailable"


class EngineFailed(Unavailable):
    """The engine broke off in the middle of an answer."""

    code = "engine_failed"


class LogitsNotFinite(Conflict):
    """What answers has weights that lead out of the finite numbers here: asking again gives the same."""

    code = "logits_not_finite"


class TemplateMismatch(Conflict):
    """The adapter was trained with another chat format than the engine renders."""

    code = "template_mismatch"
