"""Adapters: their names, the references that find them, and what a manifest says.

Knows no files: core/storage publishes bundles, core/db holds rows.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self

from core.domain import ids
from core.errors import Conflict, Finding, Invalid, NotFound

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
Kind = Literal["final", "checkpoint", "imported"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """One file of a bundle; its bytes are found by hash."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An immutable LoRA result: `name@version`, its files and its lineage."""

    id: str
    project_id: str
    created_by: str
    kind: Kind
    name: str
    version: int | None
    base_id: str
    job_id: str | None
    step: int | None
    attempt: int | None
    sha256: str
    template_hash: str
    system_prompt: str | None
    r: int
    files: tuple[AdapterFile, ...]
    manifest: str
    metadata: Mapping[str, str]
    aliases: tuple[str, ...]
    created_at: int

    @property
    def reference(self) -> str:
        """The reference that means exactly this adapter for ever."""
        if self.kind == "checkpoint":
            return f"{self.job_id}@step-{self.step}"
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAdapter:
    """What a worker publishes: the sealed bundle's facts, before a row and a version number exist.

    `sha256` is the manifest's, `manifest` its text; `files` include the manifest itself.
    """

    sha256: str
    manifest: str
    files: tuple[AdapterFile, ...]
    template_hash: str
    system_prompt: str | None
    r: int
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ById:
    """`ad_…`."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ByName:
    """`name` (newest), `name@N` or `name@alias`."""

    name: str
    version: int | None = None
    alias: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ByJob:
    """`job_…@latest` or `job_…@step-N` (`step` set)."""

    job_id: str
    step: int | None = None


Reference = ById | ByName | ByJob


def parse_reference(text: str) -> Reference:
    """Read an adapter reference; design.md section 4 lists the forms.

    Raises:
        InvalidReference: The text has none of the forms.
    """
    head, at, tail = text.partition("@")
    if ids.is_id(head, "ad") and not at:
        return ById(id=head)
    if ids.is_id(head, "job") and at:
        if tail == "latest":
            return ByJob(job_id=head)
        if re.fullmatch(r"step-[0-9]{1,9}", tail):
            return ByJob(job_id=head, step=int(tail.removeprefix("step-")))
    if NAME.fullmatch(head) and not ids.looks_like_id(head):
        if not at:
            return ByName(name=head)
        if re.fullmatch(r"[1-9][0-9]{0,8}", tail):
            return ByName(name=head, version=int(tail))
        if NAME.fullmatch(tail):
            return ByName(name=head, alias=tail)
    raise InvalidReference(
        f"{text[:100]!r} is no adapter reference; use ad_…, name, name@N, name@alias, job_…@latest or job_…@step-N.",
        param="adapter",
    )


def check_name(name: str) -> None:
    """Say why a text can't be an adapter's name.

    Raises:
        ValueError: With the reason; pydantic turns it into a finding.
    """
    if not NAME.fullmatch(name):
        raise ValueError("an adapter name has 1 to 64 of a-z 0-9 . _ - and starts with a letter or digit")
    if ids.looks_like_id(name):
        raise ValueError("an adapter name may not start like an id (ds_, job_, ad_, base_, key_, proj_, gen_, wk_)")


def check_alias(alias: str) -> None:
    """Say why a text can't be an alias: those that read as versions, steps or `latest` are taken.

    Raises:
        InvalidReference: With the reason.
    """
    reserved = alias.isdigit() or alias == "latest" or alias.startswith("step-")
    if reserved or not NAME.fullmatch(alias):
        raise InvalidReference(
            f"{alias[:100]!r} can't be an alias: use 1 to 64 of a-z 0-9 . _ -, not a number, 'latest' or 'step-…'.",
            param="alias",
        )


class AdapterNotFound(NotFound):
    """No such adapter in this project."""

    code = "adapter_not_found"


class FileNotFound(NotFound):
    """The adapter has no file of this name."""

    code = "file_not_found"


class AdapterInUse(Conflict):
    """Something still needs the adapter."""

    code = "adapter_in_use"


class NameTaken(Conflict):
    """The name belongs to a base or to another thing."""

    code = "name_taken"


class InvalidReference(Invalid):
    """A text that is no adapter reference."""

    code = "invalid_reference"


class BrokenAdapter(Invalid):
    """The files of an adapter failed a check: shapes, finite weights, effect, or hash."""

    code = "broken_adapter"

    @classmethod
    def of(cls, finding: Finding) -> Self:
        """Make one of what a check found."""
        detail = f"{finding.message} {finding.hint}" if finding.hint else finding.message
        return cls(detail, param=finding.field, findings=(finding,))


def broken(code: str, message: str, *, field: str | None = None, hint: str | None = None) -> BrokenAdapter:
    """Say what is wrong with an adapter's files, and what would be right."""
    return BrokenAdapter.of(Finding(code=code, message=message, field=field, hint=hint))
