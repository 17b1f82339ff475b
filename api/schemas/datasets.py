"""Data sets on the wire."""

from typing import Literal

from pydantic import Field, computed_field

from api.schemas.lists import Out
from api.schemas.plans import PieceOut, TokensOut
from core.domain.excerpts import Place


class LengthsOut(Out):
    """How many rows are how long: `rows[i]` have at most `up_to[i]` units, the last ones more than any bound."""

    unit: Literal["characters", "tokens"]
    up_to: list[int]
    rows: list[int]


class TokenCountsOut(Out):
    """All rows in tokens as `base` reads them, control tokens included, without the system text of a job.

    `trained` are the tokens that are learnt; `over_context` rows are longer than `context_length`.
    """

    base: str
    base_fingerprint: str
    context_length: int
    total: int
    trained: int
    longest_row: int
    over_context: int
    lengths: LengthsOut


class SummaryOut(Out):
    """What a look at every row found; characters are Unicode code points.

    `duplicates` repeat an earlier row word for word and `prompts` are different ones, both among the first
    `compared_rows` rows. `scripts` are shares of all letters by Unicode script: an indication of the languages, no more.
    `lengths` are those of rows in characters.
    """

    format: str
    container: str
    compression: str | None = None
    formats: dict[str, int]
    rows: int
    turns: int
    prompt_characters: int
    answer_characters: int
    longest_row_characters: int
    lengths: LengthsOut | None
    duplicates: int
    prompts: int | None
    compared_rows: int | None
    empty_inputs: int
    scripts: dict[str, float]
    is_splittable: bool
    columns: list[str]
    errors: int
    warnings: int


class DatasetFindingOut(Out):
    """One fault in a row, or a warning about `count` rows, of which `lines` are the first: what, and what would be right."""

    severity: Literal["error", "warning"]
    line: int | None
    lines: list[int]
    count: int
    field: str | None
    code: str
    message: str
    hint: str | None


class DatasetOut(Out):
    """A data set. `reference` means exactly these bytes for ever; `findings` is what validation had to say.

    `tokens` follow once it is `ready` and the deployment has a default base: `tokens_status` is `pending` until then,
    `failed` where that base can't count them.
    """

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
    tokens: TokenCountsOut | None
    tokens_status: Literal["pending", "counted", "failed"]
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
