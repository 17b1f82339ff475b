"""What passes between the server's thread and the model's: requests and loads in, events out."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from core.errors import Problem
from core.inference.protocol import CompletionRequest
from worker.engine.models import BASE
from worker.engine.sampling import Draw
from worker.engine.shelves import Slot
from worker.engine.weights import Weights


@dataclass(frozen=True, slots=True)
class Token:
    """One more token of an answer; the last one says why it is the last."""

    id: int
    finish_reason: Literal["stop", "length"] | None


class AnswerBroken(Problem):
    """The engine could not go on with this answer; others are not touched."""

    code = "answer_broken"


@dataclass(frozen=True, slots=True)
class Broken:
    """The request failed, alone; `problem` is for its caller."""

    problem: Problem


Event = Token | Broken


@dataclass(eq=False)
class Request:
    """One answer in the making. `deliver` is called on the model's thread and must return at once."""

    asked: CompletionRequest
    slot: Slot | None
    deliver: Callable[[Event], None]
    is_cancelled: bool = False

    @property
    def key(self) -> str:
        """What the model knows its adapter by."""
        return BASE if self.slot is None else self.slot.key


@dataclass(eq=False)
class Active:
    """A request whose prompt has been read."""

    request: Request
    draw: Draw
    last: int
    made: int = 1


@dataclass(eq=False)
class Load:
    """An adapter that waits for its place."""

    name: str
    path: str
    weights: Weights
    done: "Future[None]" = field(default_factory=Future)
