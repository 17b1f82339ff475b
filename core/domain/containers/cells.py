"""A table's cells to a row's fields: what CSV and Parquet share."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from core.domain import rows, strictjson
from core.domain.containers.raw import Raw
from core.domain.faults import BadFile, BadRow, shown
from core.domain.rows.messages import SPELLINGS
from core.errors import Finding

NAMELESS: Final = frozenset({"", "Unnamed: 0", "__index_level_0__"})
"""Columns in which pandas leaves the rows' numbers."""


def check_columns(names: Sequence[str], line: int) -> None:
    """Refuse a table whose columns are no format's: every row would have the same fault.

    Raises:
        BadFile: A column is missing, unknown, or there twice.
    """
    check_unique(names, line)
    try:
        rows.format_of(tuple(name for name in names if name not in NAMELESS))
    except BadRow as bad:
        raise BadFile(replace(bad.findings[0], line=line)) from None


def check_unique(names: Iterable[str], line: int, *, within: str | None = None) -> None:
    """Refuse two columns of one name, or two fields `within` a column.

    Raises:
        BadFile: A name is there twice.
    """
    twice = _repeated(names)
    if twice is None:
        return
    if within is None:
        field, message = twice, f"Two columns are named {twice!r}."
    else:
        field = shown(within)
        message = f"The column {field} has two fields {shown(twice)!r} in one struct."
    raise BadFile(
        Finding(
            code="duplicate_key",
            field=field,
            line=line,
            message=message,
            hint="Keep one; readers disagree about which one counts.",
        )
    )


def row(cells: dict[str, object]) -> Raw:
    """Put a row together; a text in a field that is a list is read as JSON, and an empty one left out.

    Any other text stays what it is, even if it looks like JSON. `prompt` and `completion` may be texts or lists where
    rows are JSON; texts that both are lists of messages were lists before a table was made of them.
    """
    try:
        if "prompt" in cells:
            _check_pair(cells)
        for name in rows.LISTS.intersection(cells):
            text = cells[name]
            if isinstance(text, str):
                if not text or text.isspace():
                    del cells[name]
                else:
                    cells[name] = _listed(name, text)
    except BadRow as bad:
        return bad
    return cells


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _check_pair(cells: dict[str, object]) -> None:
    if all(_is_of_messages(cells.get(name)) for name in ("prompt", "completion")):
        raise BadRow(
            Finding(
                code="list_in_text",
                field="prompt",
                message="prompt and completion are lists of messages, written as text.",
                hint="In a table put the whole conversation into a column messages, as JSON; or send JSONL.",
            )
        )


def _is_of_messages(cell: object) -> bool:
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return False
    try:
        read = strictjson.value(cell.encode())
    except BadRow:
        return False
    return isinstance(read, list) and bool(read) and all(_is_message(item) for item in read)


def _is_message(item: object) -> bool:
    return isinstance(item, dict) and any({*spelling} <= item.keys() for spelling in SPELLINGS)


def _listed(name: str, text: str) -> object:
    try:
        return strictjson.value(text.encode())
    except BadRow as bad:
        fault = bad.findings[0]
        raise BadRow(
            Finding(
                code=fault.code,
                field=name,
                message=f"{name}, read as JSON: {fault.message}",
                hint=f"In a table {name} is a JSON list, as json.dumps writes it; Python's own spelling is another.",
            )
        ) from None
