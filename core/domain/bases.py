"""Bases: imported models that adapters are trained on and served with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from core.domain import ids
from core.domain.adapters import AdapterFile
from core.errors import Conflict, Invalid, NotFound, Unavailable

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A Llama-layout checkpoint, immutable, known by its fingerprint (sha256 of its sorted file hashes).

    `template_hash` names the chat format (core/text/chat.py); adapters carry the same hash.
    """

    id: str
    name: str
    fingerprint: str
    template_hash: str
    context_length: int
    parameters: int
    bytes: int
    files: tuple[AdapterFile, ...]
    metadata: Mapping[str, str]
    created_at: int


class ImportedBase(BaseModel):
    """What the converter says of the folder it wrote; other things it says are for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    template_hash: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    context_length: Annotated[int, Field(ge=1)]
    parameters: Annotated[int, Field(ge=1)]


class BaseNotFound(NotFound):
    """No base of this name has been imported."""

    code = "base_not_found"


class BaseConflict(Conflict):
    """The name belongs to a base with other bytes."""

    code = "base_conflict"


class BaseUnusable(Unavailable):
    """A base's own files keep it from being served; its operator has to import it again."""

    code = "base_unusable"


class InvalidBaseName(Invalid):
    """A text that can't be a base's name."""

    code = "invalid_base_name"


def check_name(name: str) -> None:
    """Refuse a name that no reference could spell.

    Raises:
        InvalidBaseName: With what would be right.
    """
    if not NAME.fullmatch(name) or ids.looks_like_id(name):
        raise InvalidBaseName(
            f"{name[:100]!r} can't name a base: use 1 to 64 of A-Z a-z 0-9 . _ -, not starting like an id.",
            param="name",
        )
