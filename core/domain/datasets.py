"""Data sets as values: conversations, rows' origin, and what a summary says.

Knows no bytes: core/domain/formats.py parses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from core.errors import Conflict, Invalid, NotFound, TooLarge

MAX_FINDINGS: Final = 100
"""A report stops after this many findings; the summary says how many there were."""

DatasetStatus = Literal["processing", "ready", "invalid"]


class Turn(NamedTuple):
    """One message of a conversation; `weight` 0 keeps an assistant turn out of the loss.

    A named tuple, like Conversation: millions are made, and a frozen dataclass takes twice the time to make.
    """

    role: Literal["system", "user", "assistant"]
    content: str
    weight: float = 1.0


class Conversation(NamedTuple):
    """One training row, whatever format it came in. `line` counts from 1 in the user's file."""

    turns: tuple[Turn, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a look at every row found. Characters are Unicode code points.

    `rows` counts the good ones; `format` is the rows' own (`alpaca`, `bluelm`, `openai`, `sharegpt`,
    `prompt_completion`, or `mixed`), `container` the file's (`jsonl`, `json`, `csv`, `tsv`, `parquet`), both `unknown`
    when nothing could be read, and `compression` what it was packed with (`gzip`, `zstd`). `errors` and `warnings`
    count findings, of which at most MAX_FINDINGS are listed.
    """

    format: str
    container: str
    rows: int
    turns: int
    prompt_characters: int
    answer_characters: int
    longest_row_characters: int
    duplicates: int
    columns: tuple[str, ...]
    compression: str | None = None
    errors: int = 0
    warnings: int = 0


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
    object_key: str | None = None
    """Where the bytes lie in the object store; None once they are gone."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The outcome of a look at every row."""

    summary: Summary
    findings: tuple[DatasetFinding, ...]

    @property
    def is_acceptable(self) -> bool:
        """Whether the file can be trained on."""
        return self.summary.errors == 0


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
