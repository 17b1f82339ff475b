"""Data sets on the wire."""

from typing import Literal

from api.schemas.lists import Out


class SummaryOut(Out):
    """What a look at every row found; characters are Unicode code points."""

    format: str
    container: str
    compression: str | None = None
    rows: int
    turns: int
    prompt_characters: int
    answer_characters: int
    longest_row_characters: int
    duplicates: int
    columns: list[str]


class DatasetFindingOut(Out):
    """One fault or warning: where in the file, what, and what would be right."""

    severity: Literal["error", "warning"]
    line: int | None
    field: str | None
    code: str
    message: str
    hint: str | None


class DatasetOut(Out):
    """A data set. `reference` means exactly these bytes for ever; `findings` is what validation had to say."""

    id: str
    object: Literal["dataset"] = "dataset"
    name: str
    version: int
    reference: str
    status: Literal["processing", "ready", "invalid"]
    filename: str
    sha256: str
    bytes: int
    summary: SummaryOut | None
    findings: list[DatasetFindingOut]
    metadata: dict[str, str]
    created_by: str
    created_at: int
