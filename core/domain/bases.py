"""Bases: imported models that adapters are trained on and served with."""

from collections.abc import Mapping
from dataclasses import dataclass

from core.domain.adapters import AdapterFile
from core.errors import Conflict, NotFound


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


class BaseNotFound(NotFound):
    """No base of this name has been imported."""

    code = "base_not_found"


class BaseConflict(Conflict):
    """The name belongs to a base with other bytes."""

    code = "base_conflict"
