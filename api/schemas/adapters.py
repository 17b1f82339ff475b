"""Adapters and bases on the wire."""

import json
from typing import Any, Literal

from pydantic import BaseModel, Field, JsonValue, field_validator

from api.schemas.lists import Out
from core.domain.written import Written


class FileOut(Out):
    """One file of a bundle."""

    name: str
    sha256: str
    bytes: int


class AdapterOut(Out):
    """An adapter. `reference` means exactly this one for ever; `sha256` is its manifest's."""

    id: str
    object: Literal["adapter"] = "adapter"
    kind: Literal["final", "checkpoint", "imported"]
    name: str
    version: int | None
    reference: str
    aliases: list[str]
    base: str = Field(validation_alias="base_id")
    job: str | None = Field(validation_alias="job_id")
    step: int | None
    sha256: str
    template_hash: str
    system_prompt: str | None
    r: int
    files: list[FileOut]
    metadata: dict[str, str]
    created_by: str
    created_at: int


class AdapterDetailOut(AdapterOut):
    """One adapter with its manifest: what it was made from, and with what."""

    manifest: dict[str, JsonValue]

    @field_validator("manifest", mode="before")
    @classmethod
    def _read(cls, text: Any) -> Any:  # noqa: ANN401  (a JSON text, or what it says)
        return json.loads(text) if isinstance(text, str) else text


class AdapterRefOut(Out):
    """Which adapter: enough to ask it something."""

    id: str
    name: str
    version: int | None
    sha256: str


class AliasTarget(Written):
    """Body of `PUT /adapters/{name}/aliases/{alias}`."""

    version: int = Field(ge=1)


class BaseOut(Out):
    """An imported base. `fingerprint` is the sha256 of its sorted file hashes; `parameters` counts weights."""

    id: str
    object: Literal["base"] = "base"
    name: str
    fingerprint: str
    template_hash: str
    context_length: int
    parameters: int
    bytes: int
    files: list[FileOut]
    metadata: dict[str, str]
    created_at: int


class DeletedOut(BaseModel):
    """The answer to a DELETE."""

    id: str
    object: str
    deleted: Literal[True] = True
