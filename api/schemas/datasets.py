"""Data sets on the wire."""

from typing import Literal

from pydantic import Field, computed_field

from api.schemas.lists import Out
from api.schemas.plans import PieceOut, TokensOut
from core.domain.excerpts import Place


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


class TurnOut(Out):
    """One message; an assistant's of `weight` 0 is read and not learnt."""

    role: Literal["system", "user", "assistant"]
    content: str
    weight: float


class RenderedOut(Out):
    """The row as the base reads it; `problem` says why it can't be, and the rest is empty then."""

    tokens: TokensOut | None
    pieces: list[PieceOut]
    omitted: int
    problem: str | None


class RowOut(Out):
    """One parsed row. `row` and `line` count from 1; `id` is where the next page begins."""

    object: Literal["dataset.row"] = "dataset.row"
    end: Place = Field(exclude=True)
    line: int
    turns: list[TurnOut]
    rendered: RenderedOut | None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def id(self) -> str:
        """What `after` takes."""
        return self.end.cursor

    @computed_field  # type: ignore[prop-decorator]
    @property
    def row(self) -> int:
        """The row's number in the file."""
        return self.end.row
