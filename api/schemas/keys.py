"""Keys and workers on the wire."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints

from api.schemas.lists import Out
from core.domain.keys import NewKey
from core.domain.written import Written


class KeyRequest(Written):
    """Body of `POST /keys`: a key for a project, your own by default."""

    role: Literal["admin", "member", "read", "infer"]
    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    project: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None


class KeyOut(Out):
    """A key as stored; `hint` is the end of its text."""

    id: str
    object: Literal["key"] = "key"
    project: str
    role: Literal["admin", "member", "read", "infer"]
    name: str
    hint: str
    created_at: int
    created_by: str | None
    revoked_at: int | None
    last_used_at: int | None


class NewKeyOut(KeyOut):
    """A key just made, with the one look at its secret."""

    secret: str = Field(description="Shown once; it can't be read again.")

    @classmethod
    def of_new(cls, made: NewKey) -> Self:
        """Show a key and its secret."""
        return cls(**KeyOut.of(made.key).model_dump(), secret=made.secret)


class WorkerOut(Out):
    """A worker process, as it last said of itself."""

    id: str
    object: Literal["worker"] = "worker"
    host: str
    device: str
    memory_bytes: int
    bases: list[str]
    capabilities: list[str]
    draining: bool
    started_at: int
    last_seen: int
