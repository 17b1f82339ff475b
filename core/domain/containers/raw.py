"""What every container gives: rows by line, not yet known to be of any format."""

from collections.abc import Mapping
from typing import Final

from core.domain.faults import BadRow
from core.errors import Finding

MAX_ROW_BYTES: Final = 2**20

Fields = Mapping[str, object]
Raw = bytes | dict[str, object] | BadRow
"""A row as JSON not yet read, as fields already read and checked, or what is wrong with it."""
RawRow = tuple[int, Raw]
"""The line where a row begins, counted from 1 in the user's file (in Parquet: the row's number), and the row."""


def too_long(line: int) -> Finding:
    """The finding about a row that is longer than MAX_ROW_BYTES."""
    return Finding(
        code="row_too_long",
        message=f"The row is longer than {MAX_ROW_BYTES} bytes.",
        line=line,
        hint="One object a line in JSONL; split texts that are this long.",
    )


def cut(line: int) -> Finding:
    """The finding about a file that ends inside a row."""
    return Finding(
        code="truncated",
        message="The file ends inside a row.",
        line=line,
        hint="Was the export or the copy broken off? Write the file again.",
    )
