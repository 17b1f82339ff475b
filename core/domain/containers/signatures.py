"""First bytes that tell what a file can't be, whatever its name says."""

import re
from collections.abc import Mapping
from typing import Final

from core.domain import compression
from core.domain.faults import BadFile
from core.errors import Finding

_ARCHIVES: Final = {
    b"PK\x03\x04": "a zip archive (or an Excel workbook)",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x04\x22\x4d\x18": "LZ4",
}
_BINARY: Final = {
    b"PARE": "an encrypted Parquet file",
    b"ARROW1": "Arrow",
    b"Obj\x01": "Avro",
    b"ORC": "ORC",
    b"%PDF-": "a PDF",
    b"\x80\x02": "a Python pickle",
    b"\x80\x03": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x80\x05": "a Python pickle",
    b"SQLite format 3": "an SQLite database",
    b"\xd0\xcf\x11\xe0": "an old Office document",
}
_UTF16: Final = re.compile(rb"\xff\xfe|\xfe\xff|[\t-~]\0|\0[\t-~]")


def refuse(head: bytes, *, is_unpacked: bool) -> None:
    """Refuse what is no data set, by a file's first bytes.

    Raises:
        BadFile: It is an archive, a known binary format, UTF-16, or no text.
    """
    if is_unpacked and compression.of(head):
        raise BadFile(
            Finding(
                code="nested_compression",
                message="The file was packed twice.",
                line=1,
                hint="Unpack it once, or send it unpacked.",
            )
        )
    if name := _named(head, _ARCHIVES):
        raise BadFile(
            Finding(
                code="compressed_file",
                message=f"The file is {name}.",
                line=1,
                hint="Unpack it first; of compressions, gzip and Zstandard are read.",
            )
        )
    if name := _named(head, _BINARY):
        raise BadFile(
            Finding(
                code="binary_file",
                message=f"The file is {name}, whatever its name says.",
                line=1,
                hint="Export the rows as JSONL in UTF-8, or as Parquet.",
            )
        )
    if _UTF16.match(head):
        raise BadFile(
            Finding(
                code="utf16", message="The file is UTF-16 or UTF-32.", line=1, hint="Save it as UTF-8 (without BOM)."
            )
        )
    if b"\0" in head:
        raise BadFile(
            Finding(
                code="nul_byte",
                message="The file holds NUL bytes, so it is not text.",
                line=1 + head.count(b"\n", 0, head.index(b"\0")),
                hint="Upload JSONL or a JSON array in UTF-8.",
            )
        )


def _named(head: bytes, table: Mapping[bytes, str]) -> str | None:
    return next((name for magic, name in table.items() if head.startswith(magic)), None)
