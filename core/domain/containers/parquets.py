"""Parquet: rows from the columns that a format reads, a few at a time.

The footer, which says what is where, comes last. So a file that arrives as a stream is first copied to a temporary
file without a name, whose size the process's own limits bound. pyarrow is imported when a Parquet file comes.
"""

import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from core.domain import rows as formats_of_rows
from core.domain import strictjson
from core.domain.containers import cells
from core.domain.containers.raw import MAX_ROW_BYTES, Raw, RawRow, too_long
from core.domain.faults import BadFile, BadRow, shown
from core.domain.strictjson import MAX_DEPTH
from core.errors import Finding

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS: Final = 256
BUFFER_BYTES: Final = 2**20
SMALL_BYTES: Final = 8 * 2**20
"""A copy up to here is kept in memory."""
_MAGIC: Final = b"PAR1"


def is_one(head: bytes) -> bool:
    """Recognise Parquet by a file's first bytes."""
    return head.startswith(_MAGIC)


def rows(chunks: Iterator[bytes], file: BinaryIO | None, *, after: int = 0) -> Iterator[RawRow]:
    """Give every row; its number, from 1, stands for a line.

    Args:
        chunks: The file's bytes.
        file: The same bytes where they can be read in any order; None makes a copy.
        after: Rows up to this number may be left out, by the row group and by the batch.

    Raises:
        BadFile: The file is cut off, damaged or encrypted, or a column is missing, unknown or no text.
    """
    import pyarrow as pa  # noqa: PLC0415  (0.15 s and 60 MB that other files don't need)
    import pyarrow.parquet as pq  # noqa: PLC0415

    with tempfile.SpooledTemporaryFile(max_size=SMALL_BYTES) as copy:
        if file is None:
            # By writelines all would be kept in memory until its end.
            for chunk in chunks:
                copy.write(chunk)
            file = cast("BinaryIO", copy)
        file.seek(0)
        try:
            opened = pq.ParquetFile(
                pa.PythonFile(file, mode="r"),
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
                arrow_extensions_enabled=False,
            )
            yield from _rows(opened, after)
        except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: names that are not UTF-8, among others
            if isinstance(error, MemoryError):
                raise
            raise BadFile(_unreadable(str(error), file)) from None


def _rows(opened: "pq.ParquetFile", after: int) -> Iterator[RawRow]:
    schema = opened.schema_arrow
    cells.check_columns(schema.names, line=1)
    known = formats_of_rows.format_of(tuple(name for name in schema.names if name not in cells.NAMELESS))
    read = [name for name in schema.names if name not in known.unread and name not in cells.NAMELESS]
    for name in read:
        _check_type(schema.field(name).type, name, MAX_DEPTH)
    group, number = _group_of(after + 1, opened)
    groups = list(range(group, opened.num_row_groups))
    for batch in opened.iter_batches(batch_size=BATCH_ROWS, columns=read, row_groups=groups, use_threads=False):
        if number + len(batch) <= after + 1:
            number += len(batch)
            continue
        for raw in _of_batch(batch):
            yield number, raw
            number += 1


def _group_of(row: int, opened: "pq.ParquetFile") -> tuple[int, int]:
    """Find the row group that holds a row, and the number of its first row."""
    group, number = 0, 1
    while group < opened.num_row_groups and number + opened.metadata.row_group(group).num_rows <= row:
        number += opened.metadata.row_group(group).num_rows
        group += 1
    return group, number


def _of_batch(batch: "pa.RecordBatch") -> Iterator[Raw]:
    is_large = batch.nbytes > MAX_ROW_BYTES
    try:
        found = batch.to_pylist()
    except UnicodeDecodeError:
        if len(batch) == 1:
            yield BadRow(_not_utf8())
            return
        for place in range(len(batch)):
            yield from _of_batch(batch.slice(place, 1))
        return
    for row in found:
        if is_large and _characters(row) > MAX_ROW_BYTES:
            yield BadRow(too_long(0))
        else:
            yield _checked({name: value for name, value in row.items() if value is not None})


def _checked(row: dict[str, object]) -> Raw:
    try:
        strictjson.check_texts(row)
    except BadRow as bad:
        return bad
    return cells.row(row)


def _characters(value: object) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 0


def _check_type(kind: "pa.DataType", name: str, depth: int) -> None:
    from pyarrow import types as kinds  # noqa: PLC0415

    nested = (kinds.is_list, kinds.is_large_list, kinds.is_fixed_size_list, kinds.is_dictionary)
    plain = (
        kinds.is_string,
        kinds.is_large_string,
        kinds.is_null,
        kinds.is_boolean,
        kinds.is_integer,
        kinds.is_floating,
    )
    if depth and kinds.is_struct(kind):
        cells.check_unique((kind.field(place).name for place in range(kind.num_fields)), 1, within=name)
        for place in range(kind.num_fields):
            _check_type(kind.field(place).type, f"{name}.{kind.field(place).name}", depth - 1)
    elif depth and any(is_kind(kind) for is_kind in nested):
        _check_type(kind.value_type, name, depth - 1)
    elif not any(is_kind(kind) for is_kind in plain):
        raise BadFile(
            Finding(
                code="unsupported_column",
                field=shown(name),
                line=1,
                message=f"The column {shown(name)} is of type {shown(str(kind), at_most=40)}, not text.",
                hint="Write it as strings, or as lists and structs of strings; drop it if it is not needed.",
            )
        )


def _unreadable(reason: str, file: BinaryIO) -> Finding:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - len(_MAGIC), 0))
    ending = file.read(len(_MAGIC))
    if ending == b"PARE" or "encrypt" in reason:
        return Finding(
            code="encrypted_file",
            message="The Parquet file is encrypted.",
            hint="Write it without encryption; uploads are kept in your project alone.",
        )
    if ending != _MAGIC or size < 3 * len(_MAGIC):
        return Finding(
            code="truncated",
            message="The Parquet file has no footer.",
            hint="Was the copy broken off, or the writer not closed? Write the file again.",
        )
    return Finding(
        code="damaged_parquet",
        message=f"The Parquet file can't be read: {shown(reason.strip(), at_most=120)}.",
        hint="Write it again, with snappy, gzip or zstd inside, or send JSONL.",
    )


def _not_utf8() -> Finding:
    return Finding(
        code="invalid_utf8",
        message="A text of the row is not UTF-8.",
        hint="Decode the texts before they are written; Parquet's strings are UTF-8.",
    )
