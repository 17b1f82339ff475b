"""JSON as strictly as RFC 8259 allows: one object a row, no duplicate names, no NaN, no lone surrogates, no NUL.

orjson reads the rows that can hold none of these; everything else, and every fault, goes through the standard
library's scanner with hooks, which is slower and can say what is wrong. Knows no fields: core/domain/rows does.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from typing import Final

import orjson

from core.domain.faults import BadRow, shown
from core.errors import Finding

MAX_DEPTH: Final = 32
MAX_NUMBER_CHARACTERS: Final = 32

_STRING: Final = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"')
_BRACKET: Final = re.compile(r"[\[\]{}]")


def loads(raw: bytes) -> dict[str, object]:
    """Read one row.

    Raises:
        BadRow: It is no JSON object, or breaks a rule of this module; the finding has no line yet.
    """
    row = value(raw)
    if not isinstance(row, dict):
        raise BadRow(
            Finding(
                code="not_an_object",
                message=f"The row is {_KINDS[type(row)]}, not an object.",
                hint='Write each row as {"instruction": "…", "input": "", "output": "…"}.',
            )
        )
    return row


def value(raw: bytes) -> object:
    """Read one JSON value of any kind; raises as `loads` does."""
    try:
        read = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return _strictly(raw)
    return read if _is_plain(read, raw) else _strictly(raw)


def plain_rows(block: bytes) -> list[dict[str, object]] | None:
    """Read all lines of a block at once where that is sure to give what `loads` gives for each; else None.

    Each line feed gets a 0 behind it, as if that stood between two rows. It is sure where every second value then is a
    row, flat and all text, and the others are as many zeros as there are line feeds: a line feed in a text, or a 0
    within an object, is no JSON; a 0 within an array is in no flat row; and a line of two rows is one value too many.
    """
    parted = block.replace(b"\n", b"\n,0,")
    try:
        values: list[object] = orjson.loads(b"[%b]" % parted)
    except orjson.JSONDecodeError:
        return None
    feeds = (len(parted) - len(block)) // 3
    rows, zeros = values[::2], values[1::2]
    if len(zeros) != feeds or len(rows) != feeds + 1 or zeros.count(0) != feeds:
        return None
    names, flat = 0, []
    for row in rows:
        if type(row) is not dict:
            return None
        for item in row.values():
            if type(item) is not str:
                return None
        names += len(row)
        flat.append(row)
    return flat if _quotes(block) == 4 * names else None


def _is_plain(read: object, raw: bytes) -> bool:
    """Say whether orjson has read a value that the strict scanner would read alike.

    orjson keeps the last of duplicate names without a word. Each name and each text stands between two quotation
    marks, so a count of those that are not escaped gives duplicates away.
    """
    texts = _texts(read, MAX_DEPTH)
    return texts is not None and _quotes(raw) == 2 * texts


def _texts(read: object, depth: int) -> int | None:
    """Count names and texts; None where a value is nested too deeply or may have been spelled in a forbidden way."""
    if type(read) is str:
        return 1
    inside: Iterable[object]
    if type(read) is dict:
        found, inside = len(read), read.values()
    elif type(read) is list:
        found, inside = 0, read
    else:
        # Any other number may have lost digits, or have had more of them than is allowed.
        return 0 if type(read) is int or read is None or type(read) is bool else None
    if depth == 0:
        return None
    for item in inside:
        if type(item) is str:
            found += 1
        elif (more := _texts(item, depth - 1)) is None:
            return None
        else:
            found += more
    return found


def _quotes(raw: bytes) -> int:
    """Count the quotation marks of valid JSON that begin or end a text; -1 if a NUL is escaped in it."""
    quotes = raw.count(b'"')
    if b"\\" in raw:
        single = raw.replace(b"\\\\", b"")
        if b"\\u0000" in single:
            return -1
        quotes -= single.count(b'\\"')
    return quotes


def _strictly(raw: bytes) -> object:
    text = decoded(raw)
    _check_depth(text)
    try:
        read = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRow(_syntax(text, error)) from None
    check_texts(read)
    return read


def decoded(raw: bytes) -> str:
    """Read bytes as UTF-8.

    Raises:
        BadRow: They are in another encoding, hold NUL, or begin with a byte order mark.
    """
    if b"\0" in raw:
        raise BadRow(Finding(code="nul_byte", message="The row holds a NUL byte.", hint="Remove it."))
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise BadRow(_encoding(raw, error)) from None
    if text.startswith("\ufeff"):
        raise BadRow(
            Finding(
                code="stray_bom",
                message="A byte order mark stands inside the file.",
                hint="Only the first line may start with one; files joined end to end often have several.",
            )
        )
    return text


def _encoding(raw: bytes, error: UnicodeDecodeError) -> Finding:
    lead, follow = raw[error.start], raw[error.start + 1 : error.start + 2]
    if lead in {0xC0, 0xC1} or (lead == 0xE0 and follow < b"\xa0") or (lead == 0xF0 and follow < b"\x90"):
        return Finding(
            code="overlong_utf8",
            message=f"Byte {error.start + 1} of the row starts an overlong UTF-8 sequence.",
            hint="Write the file again with a conforming UTF-8 encoder.",
        )
    try:
        raw.decode("gb18030")
        guess = "It reads as GB18030 (GBK); convert it: iconv -f GB18030 -t UTF-8."
    except UnicodeDecodeError:
        guess = "Convert the file to UTF-8, for instance with iconv."
    return Finding(code="invalid_utf8", message=f"Byte {error.start + 1} of the row is not UTF-8.", hint=guess)


def _check_depth(text: str) -> None:
    depth = 0
    for bracket in _BRACKET.finditer(_STRING.sub("", text)):
        depth += 1 if bracket.group() in "[{" else -1
        if depth > MAX_DEPTH:
            raise BadRow(too_deep())


def too_deep() -> Finding:
    """The finding about a row that is nested too deeply."""
    return Finding(
        code="too_deep",
        message=f"The row is nested more than {MAX_DEPTH} levels deep.",
        hint="No field needs more than three.",
    )


def check_texts(value: object) -> None:
    """Refuse lone surrogates and NUL, which no tokenizer or database takes; raises BadRow."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check_text(name, field=None)
            check_texts(item)
    elif isinstance(value, list):
        for item in value:
            check_texts(item)
    elif isinstance(value, str):
        _check_text(value, field=None)


def _check_text(text: str, *, field: str | None) -> None:
    if "\0" in text:
        raise BadRow(
            Finding(code="nul_byte", message="The row holds a NUL character (\\u0000).", hint="Remove it.", field=field)
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(
            Finding(
                code="lone_surrogate",
                message=f"The row holds half a character (\\u{ord(text[error.start]):04x} without its partner).",
                hint="Text was cut inside a character beyond U+FFFF, such as an emoji; write the row again.",
                field=field,
            )
        ) from None


def _syntax(text: str, error: json.JSONDecodeError) -> Finding:
    at = f"at character {error.pos + 1} of the row"
    before, here = text[: error.pos].rstrip(), text[error.pos : error.pos + 1]
    if here in {"}", "]"} and before.endswith(","):
        return Finding(code="trailing_comma", message=f"A comma stands before {here!r} {at}.", hint="Remove the comma.")
    if error.msg == "Extra data":
        return Finding(
            code="malformed_json",
            message=f"The row goes on after its JSON value, {at}: {shown(text[error.pos :], at_most=20)!r}.",
            hint="One object a line in JSONL, without commas between; or one JSON array of objects.",
        )
    return Finding(
        code="malformed_json",
        message=f"The row is not JSON: {error.msg[:1].lower()}{error.msg[1:]} {at}.",
        hint="Write rows with a JSON library; line feeds inside text are \\n, and names stand in double quotes.",
    )


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    row = dict(pairs)
    if len(row) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise BadRow(
            Finding(
                code="duplicate_key",
                field=shown(twice),
                message=f"The name {shown(twice)!r} stands more than once in one object.",
                hint="Keep one; readers disagree about which one counts.",
            )
        )
    return row


def _short_number(text: str) -> None:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise BadRow(
            Finding(
                code="number_too_long",
                message=f"A number has {len(text)} characters; at most {MAX_NUMBER_CHARACTERS} are read.",
                hint='If it is an identifier, write it as text: "…".',
            )
        )


def _integer(text: str) -> int:
    _short_number(text)
    return int(text)


def _float(text: str) -> float:
    _short_number(text)
    number = float(text)
    if math.isinf(number):
        raise BadRow(
            Finding(code="number_out_of_range", message=f"The number {text} is beyond 64-bit range.", hint="Remove it.")
        )
    return number


def _constant(text: str) -> float:
    raise BadRow(
        Finding(code="not_a_number", message=f"{text} is not JSON.", hint="Write null, or leave the field out.")
    )


_KINDS: Final[dict[type, str]] = {
    list: "an array",
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}
_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_without_duplicates, parse_int=_integer, parse_float=_float, parse_constant=_constant
)
