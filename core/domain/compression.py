"""gzip and Zstandard, unpacked piece by piece while the bytes come, within limits that no bomb passes.

A stream may have several members (gzip) or frames (Zstandard), as parallel packers and `cat` make them. Knows no rows.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Final, Literal, Protocol

from backports import zstd

from core.domain.faults import BadFile
from core.errors import Finding

Compression = Literal["gzip", "zstd"]

MAX_UNPACKED_BYTES: Final = 8 * 2**30
MAX_RATIO: Final = 200
"""Text packs up to about 30 times; a bomb 1,000 times with gzip, 30,000 times with Zstandard."""
FREE_BYTES: Final = 16 * 2**20
"""Up to here any ratio goes: a small set may be one row, over and over."""
PIECE_BYTES: Final = 2**18
FED_BYTES: Final = 2**16
WINDOW_LOG: Final = 27
"""What unpacking may need to look back, 128 MiB, is what `zstd --long` asks for."""

_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPABLE: Final = tuple(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60))


class _Member(Protocol):
    """One member or frame being unpacked."""

    def feed(self, packed: bytes) -> bytes:
        """Take packed bytes in and give at most PIECE_BYTES back; feed nothing to get more of the same."""

    @property
    def is_hungry(self) -> bool:
        """Whether nothing more comes without more packed bytes."""

    @property
    def rest(self) -> bytes | None:
        """The packed bytes after the end; None before it."""


class _Gzip:
    def __init__(self) -> None:
        self._inflater = zlib.decompressobj(wbits=31)
        self._is_full = False

    def feed(self, packed: bytes) -> bytes:
        piece = self._inflater.decompress(self._inflater.unconsumed_tail + packed, PIECE_BYTES)
        # zlib may have taken all its input while a part of the output waits inside.
        self._is_full = len(piece) == PIECE_BYTES
        return piece

    @property
    def is_hungry(self) -> bool:
        return not self._is_full and not self._inflater.unconsumed_tail

    @property
    def rest(self) -> bytes | None:
        return self._inflater.unused_data if self._inflater.eof else None


class _Zstd:
    def __init__(self) -> None:
        self._unpacker = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})

    def feed(self, packed: bytes) -> bytes:
        return self._unpacker.decompress(packed, PIECE_BYTES)

    @property
    def is_hungry(self) -> bool:
        return self._unpacker.needs_input

    @property
    def rest(self) -> bytes | None:
        return self._unpacker.unused_data if self._unpacker.eof else None


_MEMBERS: Final[dict[Compression, Callable[[], _Member]]] = {"gzip": _Gzip, "zstd": _Zstd}


def of(head: bytes) -> Compression | None:
    """Recognise a compression by a file's first bytes."""
    if head.startswith(_GZIP):
        return "gzip"
    return "zstd" if head.startswith((_ZSTD, *_SKIPPABLE)) else None


def most_unpacked(packed_bytes: int) -> int:
    """How many bytes a file of this size may unpack to."""
    return min(MAX_UNPACKED_BYTES, max(FREE_BYTES, MAX_RATIO * packed_bytes))


def unpacked(chunks: Iterator[bytes], compression: Compression) -> Iterator[bytes]:
    """Unpack a file; pieces are at most PIECE_BYTES long.

    Raises:
        BadFile: It is damaged, cut off, followed by something else, or unpacks to too much.
    """
    taken = given = 0
    member: _Member | None = None
    for chunk in _small(chunks):
        taken += len(chunk)
        packed = chunk
        while packed or (member is not None and not member.is_hungry):
            if member is None:
                packed = packed.lstrip(b"\0") if compression == "gzip" else packed
                member = _MEMBERS[compression]() if packed else None
                continue
            piece = _fed(member, packed, compression)
            packed = b""
            given += len(piece)
            _check_size(taken, given)
            if piece:
                yield piece
            if (rest := member.rest) is not None:
                member, packed = None, rest
    if member is not None:
        raise BadFile(
            Finding(
                code="truncated",
                message=f"The file ends inside its {compression} data.",
                hint="Was the copy broken off? Pack the file again.",
            )
        )


def _small(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut chunks: what follows a member is copied, so that many small members in a large chunk would take for ever."""
    for chunk in chunks:
        for start in range(0, len(chunk), FED_BYTES):
            yield chunk[start : start + FED_BYTES]


def _fed(member: _Member, packed: bytes, compression: Compression) -> bytes:
    try:
        return member.feed(packed)
    except (zlib.error, zstd.ZstdError) as error:
        raise BadFile(_damaged(str(error), compression)) from None


def _check_size(taken: int, given: int) -> None:
    if given > most_unpacked(taken):
        raise BadFile(
            Finding(
                code="unpacks_to_too_much",
                message=f"{taken} packed bytes unpack to more than {given // 2**20} MiB.",
                hint=f"At most {MAX_UNPACKED_BYTES // 2**30} GiB and {MAX_RATIO} times the packed size are read; "
                "upload in parts, or without compression.",
            )
        )


def _damaged(reason: str, compression: Compression) -> Finding:
    if "too much memory" in reason:
        return Finding(
            code="window_too_large",
            message=f"The file needs more than {2**WINDOW_LOG // 2**20} MiB to be unpacked.",
            hint="Pack it without --ultra and with --long=27 at most.",
        )
    return Finding(
        code="damaged_archive",
        message=f"The file's {compression} data are damaged, or something else follows them.",
        hint="Pack the file again; if it was downloaded, compare its size or checksum.",
    )
