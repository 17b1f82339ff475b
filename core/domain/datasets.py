"""Data sets as values: conversations, rows' origin, and what a summary says.

Knows no bytes: core/domain/formats.py parses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from core.errors import Conflict, Invalid, NotFound, TooLarge

MAX_FINDINGS: Final = 100
"""A report stops after this many findings; the summary says how many there were."""

DatasetStatus = Literal["processing", "ready", "invalid"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation; `weight` 0 keeps an assistant turn out of the loss."""

    role: Literal["system", "user", "assistant"]
    content: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Conversation:
    """One training row, whatever format it came in. `line` counts from 1 in the user's file."""

    turns: tuple[Turn, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a look at every row found. Characters are Unicode code points."""

    format: str
    container: str
    rows: int
    turns: int
    prompt_characters: int
    answer_characters: int
    longest_row_characters: int
    duplicates: int
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """An uploaded file, immutable, versioned by name within its project."""

    id: str
    project_id: str
    created_by: str
    name: str
    version: int
    status: DatasetStatus
    filename: str
    sha256: str
    bytes: int
    summary: Summary | None
    findings: tuple["DatasetFinding", ...]
    metadata: Mapping[str, str]
    created_at: int

    @property
    def reference(self) -> str:
        """`name@N`, which means exactly this data set for ever."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFinding:
    """One fault or warning in a data set's file."""

    severity: Literal["error", "warning"]
    line: int | None
    field: str | None
    code: str
    message: str
    hint: str | None


class DatasetNotFound(NotFound):
    """No such data set in this project."""

    code = "dataset_not_found"


class DatasetNotReady(Conflict):
    """The data set is still being validated."""

    code = "dataset_not_ready"


class DatasetInUse(Conflict):
    """A job that has not ended needs the data set."""

    code = "dataset_in_use"


class InvalidDataset(Invalid):
    """The file can't be trained on; `findings` name the lines."""

    code = "invalid_dataset"


class DatasetTooLarge(TooLarge):
    """The upload exceeds the limit on bytes."""

    code = "file_too_large"
