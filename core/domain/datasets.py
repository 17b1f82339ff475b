"""Data sets as values: conversations, rows' origin, and what a summary says.

Knows no bytes: core/domain/formats.py parses them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from core.errors import Conflict, Invalid, NotFound, Overloaded, TooLarge

MAX_LINES: Final = 10
"""A warning names this many lines; its count says how many rows it is about."""
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
class Lengths:
    """How many rows are how long: `rows[i]` have at most `up_to[i]` units, the last ones more than any bound."""

    unit: Literal["characters", "tokens"]
    up_to: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a look at every row found. Characters are Unicode code points.

    `rows` counts the good ones; `format` is the rows' own (`alpaca`, `bluelm`, `openai`, `sharegpt`,
    `prompt_completion`, or `mixed`) and `formats` counts them; `container` is the file's (`jsonl`, `json`, `csv`, `tsv`,
    `parquet`), both are `unknown` when nothing could be read, and `compression` what it was packed with (`gzip`, `zstd`).
    `duplicates` are rows that repeat an earlier one word for word, `prompts` are different ones, each looked for in the
    first `compared_rows` rows. `scripts` are shares of all letters by Unicode script, an indication of the languages, no
    more. `is_splittable` says whether `validation_ratio` can part the rows. `errors` and `warnings` count findings, of
    which at most MAX_FINDINGS are listed.
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
    formats: Mapping[str, int] = field(default_factory=dict)
    lengths: Lengths | None = None
    prompts: int | None = None
    compared_rows: int | None = None
    empty_inputs: int = 0
    scripts: Mapping[str, float] = field(default_factory=dict)
    is_splittable: bool = True
    errors: int = 0
    warnings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """A data set's rows in tokens, control tokens included, as a base's chat format writes them.

    Without the system text that a job may add. `trained` are the tokens that are learnt, `over_context` rows are
    longer than the base's `context_length`.
    """

    base: str
    base_fingerprint: str
    context_length: int
    total: int
    trained: int
    longest_row: int
    over_context: int
    lengths: Lengths


TokensStatus = Literal["pending", "counted", "failed"]
"""Of token counts: they come once a data set is `ready` and a base is the default; `failed` has no second try."""


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
    tokens: TokenCounts | None = None
    tokens_status: TokensStatus = "pending"
    object_key: str | None = None
    """Where the bytes lie in the object store; None once they are gone."""

    @property
    def reference(self) -> str:
        """`name@N`, which means exactly this data set for ever."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetFinding:
    """One fault in a row, or a warning about `count` rows, of which `lines` are the first; `line` is the first of all."""

    severity: Literal["error", "warning"]
    line: int | None
    field: str | None
    code: str
    message: str
    hint: str | None
    lines: tuple[int, ...] = ()
    count: int = 1


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


class TooManyUploads(Overloaded):
    """This process takes in as many files as it may at once."""

    code = "too_many_uploads"


class DatasetInUse(Conflict):
    """A job that has not ended needs the data set."""

    code = "dataset_in_use"


class InvalidDataset(Invalid):
    """The file can't be trained on; `findings` name the lines."""

    code = "invalid_dataset"


class DatasetTooLarge(TooLarge):
    """The upload exceeds the limit on bytes."""

    code = "file_too_large"
