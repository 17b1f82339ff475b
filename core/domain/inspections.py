"""A look at every row of a data set: what is wrong, what is odd, and what it amounts to.

Memory stays flat: findings are capped, and rows are compared by 20 bytes each (core/domain/repeats.py).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from core.domain import cautions, containers, formats, reports
from core.domain.census import BATCH_CHARACTERS, BATCH_ROWS, Census, Turns
from core.domain.columns import Columns, Seen
from core.domain.containers import Raw, RawRow
from core.domain.datasets import MAX_FINDINGS, MAX_LINES, DatasetFinding, Inspection, Summary
from core.domain.faults import BadFile, BadRow
from core.domain.repeats import Repeats
from core.errors import Finding

MAX_ERRORS: Final = 1000
"""Reading stops after this many faults: the file needs another export, not a longer list."""
MAX_ROWS: Final = 20_000_000
NUMBERED: Final = frozenset({"json", "parquet"})
"""A JSON array may stand on one line, and Parquet has no lines, so that only the row's number helps."""

# As most writers spell it, as compact ones do, and as anybody may. Inside a text the marks would be escaped.
_EMPTY_INPUT: Final = b'"input": ""'
_EMPTY_INPUT_COMPACT: Final = b'"input":""'
_EMPTY_INPUT_SPACED: Final = re.compile(rb'"input"\s*:\s*""')


def inspect(chunks: Iterable[bytes], *, on_fault: Callable[[], None] = lambda: None) -> Inspection:
    """Read all rows, or as many as it takes to refuse the file. Never raises for what the bytes hold.

    Args:
        chunks: The file's bytes, in order. They may raise BadFile to end the reading.
        on_fault: Called at the first fault, from where on only the list of faults grows, and now and then after it.
            It may raise BadFile to end the reading.
    """
    look = _Look(on_fault)
    try:
        opened = containers.open_rows(chunks)
        look.container, look.compression = opened.container, opened.compression
        look.read(opened.rows)
    except BadFile as bad:
        look.end(bad.finding)
    return look.outcome()


class _Look:
    """What is known so far."""

    def __init__(self, on_fault: Callable[[], None]) -> None:
        self._on_fault = on_fault
        self.container: containers.Container | None = None
        self.compression: containers.Compression | None = None
        self._columns = Columns()
        self._census = Census()
        self._empty_inputs = Seen()
        self._errors: list[DatasetFinding] = []
        self._error_count = 0

    def read(self, raw_rows: Iterable[RawRow]) -> None:
        """Take all rows in.

        Raises:
            BadFile: Enough is known to refuse the file.
        """
        # The loop runs millions of times: what it needs is at hand, and counts are taken by the batch.
        sample, look, most = formats.sample, self._census.look, MAX_ROWS
        fields: tuple[str, ...] = ()
        batch: list[Turns] = []
        lines: list[int] = []
        row = good = empty = weight = 0
        try:
            for row, (line, raw) in enumerate(raw_rows, 1):
                try:
                    names, turns = sample(raw)
                except BadRow as bad:
                    self._refuse(row, line, bad)
                    continue
                if names != fields:
                    self._columns.count(fields, self._census.rows + len(batch) - good)
                    good = self._census.rows + len(batch)
                    fields = names
                    self._columns.meet(fields, good, line)
                batch.append(turns)
                lines.append(line)
                weight += (
                    len(turns[0][1]) + len(turns[-1][1]) if len(turns) == 2 else sum(len(turn[1]) for turn in turns)
                )
                if _has_empty_input(raw):
                    empty += 1
                    if empty <= MAX_LINES:
                        self._empty_inputs.first.append((row - 1, line))
                if len(batch) == BATCH_ROWS or weight > BATCH_CHARACTERS:
                    look(batch, lines)
                    batch, lines, weight = [], [], 0
                    if self._error_count:
                        self._on_fault()
                if row > most:
                    raise BadFile(_too_many_rows(line))
        finally:
            look(batch, lines)
            self._columns.count(fields, self._census.rows - good)
            self._empty_inputs.rows = empty
        if row == 0:
            self.fault(
                Finding(code="no_rows", message="The file holds no rows.", hint="Upload at least one.", line=None)
            )

    def fault(self, finding: Finding) -> None:
        """Note one fault."""
        self._error_count += 1
        if self._error_count == 1:
            self._on_fault()
        if len(self._errors) < MAX_FINDINGS:
            self._errors.append(reports.error(finding))

    def end(self, finding: Finding) -> None:
        """Note the fault after which nothing was read; it is listed whatever else is."""
        del self._errors[MAX_FINDINGS - 1 :]
        self.fault(finding)

    def outcome(self) -> Inspection:
        """What was found."""
        census = self._census
        # Seconds for millions of rows, and of no use before the faults are mended.
        repeated = (Repeats() if self._error_count else census.repeats).compare()
        kinds, columns = self._columns.formats(), self._columns.columns()
        with_input = columns["input"].rows if "input" in columns else 0
        warnings = [
            *cautions.about_fields(kinds, self._empty_inputs, with_input, self._columns.unread()),
            *cautions.about_rows(census, repeated, by_number=self.container in NUMBERED),
        ]
        summary = Summary(
            format=next(iter(kinds), "unknown") if len(kinds) < 2 else "mixed",
            container=self.container or "unknown",
            compression=self.compression,
            formats={name: seen.rows for name, seen in kinds.items()},
            rows=census.rows,
            turns=census.turns,
            prompt_characters=census.prompt_characters,
            answer_characters=census.answer_characters,
            longest_row_characters=census.lengths.longest,
            lengths=census.lengths.lengths("characters"),
            duplicates=repeated.duplicates.rows,
            prompts=repeated.prompts,
            compared_rows=repeated.compared,
            empty_inputs=self._empty_inputs.rows,
            scripts=census.scripts(),
            is_splittable=census.is_splittable,
            columns=tuple(columns),
            errors=self._error_count,
            warnings=len(warnings),
        )
        return Inspection(summary=summary, findings=(*self._errors, *warnings)[:MAX_FINDINGS])

    def _refuse(self, row: int, line: int, bad: BadRow) -> None:
        where = f"Row {row}: " if self.container in NUMBERED else ""
        for finding in bad.findings:
            self.fault(replace(finding, line=line, message=where + finding.message))
        if self._error_count >= MAX_ERRORS:
            raise BadFile(
                Finding(
                    code="too_many_errors",
                    line=line,
                    message=f"Reading stopped here, after {self._error_count} faults.",
                    hint="Mend the export, then upload again.",
                )
            )


def _has_empty_input(raw: Raw) -> bool:
    if type(raw) is bytes:
        if _EMPTY_INPUT in raw:
            return True
        return b'""' in raw and (_EMPTY_INPUT_COMPACT in raw or _EMPTY_INPUT_SPACED.search(raw) is not None)
    return isinstance(raw, dict) and raw.get("input") == ""


def _too_many_rows(line: int) -> Finding:
    return Finding(
        code="too_many_rows",
        line=line,
        message=f"The file holds more than {MAX_ROWS} rows.",
        hint="Upload it in parts, and pick what is worth training on.",
    )
