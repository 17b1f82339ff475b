"""A look at every row of a data set: what is wrong, what is odd, and what it amounts to.

Memory stays flat: findings are capped, and duplicates are counted by 8 bytes a row.
"""

from array import array
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from core.domain import containers, formats, rows
from core.domain.datasets import MAX_FINDINGS, DatasetFinding, Inspection, Summary
from core.domain.faults import BadFile, BadRow
from core.errors import Finding

MAX_ERRORS: Final = 1000
"""Reading stops after this many faults: the file needs another export, not a longer list."""
MAX_WARNINGS: Final = 20
"""Of the findings, so many may be warnings."""
MAX_ROWS: Final = 20_000_000


def inspect(chunks: Iterable[bytes]) -> Inspection:
    """Read all rows, or as many as it takes to refuse the file. Never raises for what the bytes hold."""
    look = _Look()
    try:
        opened = containers.open_rows(chunks)
        look.container, look.compression = opened.container, opened.compression
        for line, raw in opened.rows:
            look.at_row(line, raw)
        look.at_end()
    except BadFile as bad:
        look.fault(bad.finding)
    return look.outcome()


def refused(finding: Finding) -> Inspection:
    """The outcome for a file that could not be read at all."""
    look = _Look()
    look.fault(finding)
    return look.outcome()


class _Look:
    """What is known so far."""

    def __init__(self) -> None:
        self.container: containers.Container | None = None
        self.compression: containers.Compression | None = None
        self._formats: dict[str, int] = {}
        self._columns: dict[tuple[str, ...], None] = {}
        self._row = self._turns = 0
        self._rows = self._prompt = self._answer = self._longest = 0
        self._digests = _Digests()
        self._errors: list[DatasetFinding] = []
        self._warnings: list[DatasetFinding] = []
        self._error_count = self._warning_count = 0

    def at_row(self, line: int, raw: containers.Raw) -> None:
        """Take one row in.

        Raises:
            BadFile: Enough is known to refuse the file.
        """
        self._row += 1
        try:
            fields, turns = formats.sample(raw)
        except BadRow as bad:
            self._refuse(line, bad)
            return
        if fields not in self._columns:
            self._columns[fields] = None
            self._formats.setdefault(rows.format_of(fields).name, line)
        self._rows += 1
        self._turns += len(turns)
        answer = len(turns[-1].content)
        prompt = len(turns[0].content) if len(turns) == 2 else sum(len(turn.content) for turn in turns[:-1])
        self._prompt += prompt
        self._answer += answer
        if prompt + answer > self._longest:  # noqa: PLR1730  (max() is a call a row)
            self._longest = prompt + answer
        self._digests.add(hash(turns))
        if rows.has_control_tokens(turns):
            self._warn_of_control_tokens(line)
        if self._rows > MAX_ROWS:
            raise BadFile(_too_many_rows(line))

    def at_end(self) -> None:
        """Say what only the whole file shows."""
        if self._row == 0:
            self.fault(
                Finding(code="no_rows", message="The file holds no rows.", hint="Upload at least one.", line=None)
            )
        if len(self._formats) > 1:
            first, second = list(self._formats)[:2]
            self._warn(
                line=self._formats[second],
                code="mixed_formats",
                message=f"Rows of {first} and of {second} stand in one file.",
                hint="Both are read; is that what you meant?",
            )
        if unread := sorted({name for fields in self._columns for name in rows.unread(fields)}):
            self._warn(
                line=None,
                code="unread_fields",
                message=f"Nothing is made of {', '.join(unread)}.",
                hint="That is fine for notes about where a row is from; rename a field that should be trained on.",
            )
        if duplicates := self._digests.duplicates():
            self._warn(
                line=None,
                code="duplicate_rows",
                message=f"{duplicates} of {self._rows} rows repeat an earlier one word for word.",
                hint="Repeats weigh more in training; remove them unless that is what you want.",
            )

    def fault(self, finding: Finding) -> None:
        """Note one fault."""
        self._error_count += 1
        if len(self._errors) < MAX_FINDINGS:
            self._errors.append(_listed("error", finding))

    def outcome(self) -> Inspection:
        """What was found."""
        room = MAX_FINDINGS - len(self._errors)
        summary = Summary(
            format=next(iter(self._formats), "unknown") if len(self._formats) < 2 else "mixed",
            container=self.container or "unknown",
            compression=self.compression,
            rows=self._rows,
            turns=self._turns,
            prompt_characters=self._prompt,
            answer_characters=self._answer,
            longest_row_characters=self._longest,
            duplicates=self._digests.duplicates(),
            columns=tuple(dict.fromkeys(name for fields in self._columns for name in fields)),
            errors=self._error_count,
            warnings=self._warning_count,
        )
        return Inspection(summary=summary, findings=(*self._errors, *self._warnings[:room]))

    def _refuse(self, line: int, bad: BadRow) -> None:
        # A JSON array may stand on one line, and Parquet has no lines, so that only the row's number helps.
        where = f"Row {self._row}: " if self.container in {"json", "parquet"} else ""
        for finding in bad.findings:
            self.fault(replace(finding, line=line, message=where + finding.message))
        if self._error_count >= MAX_ERRORS:
            del self._errors[MAX_FINDINGS - 1 :]
            raise BadFile(
                Finding(
                    code="too_many_errors",
                    line=line,
                    message=f"Reading stopped here, after {self._error_count} faults.",
                    hint="Mend the export, then upload again.",
                )
            )

    def _warn_of_control_tokens(self, line: int) -> None:
        self._warn(
            line=line,
            code="control_token_in_text",
            message="The text holds a string that looks like one of the model's control tokens.",
            hint="It is trained on as plain characters; remove it if it was left over from another format.",
        )

    def _warn(self, *, line: int | None, code: str, message: str, hint: str) -> None:
        self._warning_count += 1
        if len(self._warnings) < MAX_WARNINGS or line is None:
            finding = Finding(code=code, message=message, hint=hint, line=line)
            self._warnings.append(_listed("warning", finding))


class _Digests:
    """64-bit hashes of all rows, spread over 256 arrays, so that counting needs one small set at a time."""

    def __init__(self) -> None:
        self._arrays = [array("q") for _ in range(256)]

    def add(self, digest: int) -> None:
        self._arrays[digest & 255].append(digest)

    def duplicates(self) -> int:
        return sum(len(digests) - len(set(digests)) for digests in self._arrays)


def _listed(severity: str, finding: Finding) -> DatasetFinding:
    return DatasetFinding(
        severity="error" if severity == "error" else "warning",
        line=finding.line,
        field=finding.field,
        code=finding.code,
        message=finding.message,
        hint=finding.hint,
    )


def _too_many_rows(line: int) -> Finding:
    return Finding(
        code="too_many_rows",
        line=line,
        message=f"The file holds more than {MAX_ROWS} rows.",
        hint="Upload it in parts, and pick what is worth training on.",
    )
