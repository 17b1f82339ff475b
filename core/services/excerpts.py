"""Pages of a data set's rows, read from the stored bytes: one page and not the whole file, where that can be.

In plain JSONL a row's id knows the byte where the next one begins, so the next page is read from there however deep it
lies. Parquet is read by a process of its own (pagers.py), from the row group on that holds the page. Other files are read
from their start each time, for a few seconds at most.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from core.db.transactions import Database, snapshot
from core.domain import formats
from core.domain.bases import Base
from core.domain.datasets import Conversation, Dataset, DatasetNotReady, InvalidDataset
from core.domain.excerpts import MAX_TURNS, Excerpt, PageTooDeep, Place, Rendered, Room, TooManyTurns
from core.domain.keys import Caller
from core.domain.pages import Page, UnknownCursor
from core.domain.plans import SHOWN_PIECES, Tokens
from core.errors import Problem
from core.services import bases, datasets
from core.services.pagers import Pagers
from core.services.paging import Request
from core.services.renderers import Renderers
from core.storage.objects import ObjectMissing, Store
from core.text.chat import Renderer
from core.text.examples import IGNORED

SCAN_S: Final = 5.0
"""So long may it take to find a page."""
PAGE_CHARACTERS: Final = 1_000_000
"""A page ends with the row that goes over it; a turn counts for more than its text (core/domain/excerpts.py)."""
PIECE_BYTES: Final = 2**18
_BLANK: Final = b"\xef\xbb\xbf \t\r\n"


def page(
    reference: str,
    *,
    after: str | None,
    limit: int,
    caller: Caller,
    pagers: Pagers,
    store: Store,
    database: Database,
) -> Page[Excerpt]:
    """Read rows in the order of the file.

    Args:
        reference: `ds_…`, `name` or `name@N`.
        after: The id of the last row seen, or its number; None starts at the first row.
        limit: At most so many.
        caller: Whose data set it is.
        pagers: What reads Parquet.
        store: Where its bytes are.
        database: Where its row is.

    Raises:
        DatasetNotFound, DatasetNotReady, InvalidDataset: There is nothing to look at (yet).
        UnknownCursor: `after` is no row's id.
        PageTooDeep: Finding the page takes too long.
        TooManyTurns: The next row has more than are shown.
        TooManyPages: Others are being read; come back.
        Unavailable: The store does not answer, or the process that reads died.
    """
    dataset = _readable(datasets.resolve(reference, project_id=caller.project_id, database=database))
    begin = Place.read(after)
    if begin.offset >= dataset.bytes:
        return Page((), has_more=False)
    try:
        if dataset.summary is not None and dataset.summary.container == "parquet":
            return _page_of_parquet(dataset, begin, limit=limit, pagers=pagers, store=store)
        return _page(dataset, begin, limit=limit, store=store)
    except ObjectMissing:
        # If the data set was deleted meanwhile, this says so.
        datasets.resolve(dataset.id, project_id=caller.project_id, database=database)
        raise
    except InvalidDataset as error:
        # The file was read whole when it was validated; only a made-up offset can lead into the middle of a row.
        if not begin.offset:
            raise
        if error.findings and error.findings[0].code == "empty_file":
            return Page((), has_more=False)
        raise UnknownCursor("after leads to no row; it takes the id of the last row seen.", param="after") from error


def rendered(
    found: Page[Excerpt],
    *,
    base_model: str | None,
    default: str | None,
    system: str | None,
    renderers: Renderers,
    database: Database,
) -> Page[Excerpt]:
    """Show each row as a base would be trained on it.

    Raises:
        BaseNotFound, BaseUnusable: Of the base.
    """
    renderer = renderers.of(_base(base_model, default=default, database=database))
    return Page(tuple(replace(one, rendered=_rendered(one, renderer, system)) for one in found.data), found.has_more)


def _base(named: str | None, *, default: str | None, database: Database) -> Base:
    with snapshot(database) as tx:
        return bases.choose(tx, named, default=default)


def _readable(dataset: Dataset) -> Dataset:
    if dataset.status == "processing":
        raise DatasetNotReady(f"Data set {dataset.id} is still being validated.", param="dataset", retry_after_s=2.0)
    if dataset.status == "invalid" or dataset.object_key is None:
        raise InvalidDataset(f"Data set {dataset.id} is not valid, so it has no rows; its report says why.")
    return dataset


def _page(dataset: Dataset, begin: Place, *, limit: int, store: Store) -> Page[Excerpt]:
    tape = _Tape(store.chunks(dataset.object_key or "", start=begin.offset), begin)
    deadline = time.monotonic() + SCAN_S
    rows = enumerate(formats.parse(tape.chunks()), start=(begin.row if begin.offset else 0) + 1)
    shown: list[Excerpt] = []
    room = Room(rows=limit, characters=PAGE_CHARACTERS)
    for number, conversation in rows:
        if number <= begin.row:
            if number % 256 == 0:
                tape.forget(conversation.line)
                _check(deadline, begin)
            continue
        excerpt = _excerpt(conversation, number, tape)
        if not room.takes(conversation):
            return _ended(shown, before=excerpt.end)
        shown.append(excerpt)
    return Page(tuple(shown), has_more=False)


def _page_of_parquet(dataset: Dataset, begin: Place, *, limit: int, pagers: Pagers, store: Store) -> Page[Excerpt]:
    wanted = Request(size=dataset.bytes, after=begin.row, limit=limit, characters=PAGE_CHARACTERS)
    leaf = pagers.page(wanted, lambda start, end: store.read(dataset.object_key or "", start=start, end=end))
    shown = [Excerpt(line=one.line, turns=one.turns, end=Place(row=one.line)) for one in leaf.rows]
    if leaf.has_more:
        return _ended(shown, before=Place(row=begin.row + len(shown) + 1))
    return Page(tuple(shown), has_more=False)


def _ended(shown: Sequence[Excerpt], *, before: Place) -> Page[Excerpt]:
    """End a page before a row, of which the end is given."""
    if not shown:
        raise TooManyTurns(
            f"Row {before.row} has more than {MAX_TURNS} turns, too many to show. Page on behind it with "
            f"after={before.cursor}.",
            param="after",
        )
    return Page(tuple(shown), has_more=True)


def _check(deadline: float, begin: Place) -> None:
    if time.monotonic() > deadline:
        raise PageTooDeep(
            f"Row {begin.row} was not reached within {SCAN_S:.0f} s. Page on from ids that lists have given, or upload "
            "the file as plain JSONL.",
            param="after",
        )


def _excerpt(conversation: Conversation, number: int, tape: "_Tape") -> Excerpt:
    line, offset = tape.end_of(conversation.line)
    return Excerpt(line=line, turns=conversation.turns, end=Place(row=number, line=line, offset=offset))


class _Tape:
    """The bytes that a parser reads, and where lines end in them, if the file is plain JSONL."""

    def __init__(self, chunks: Iterable[bytes], begin: Place) -> None:
        self._chunks = chunks
        self._begin = begin
        self._is_plain = bool(begin.offset)
        self._at = begin.offset
        self._lines = 0
        self._recent: deque[tuple[int, int, bytes]] = deque()
        """Offset of a piece, lines that end before it, and the piece; those that a row may still end in."""

    def chunks(self) -> Iterator[bytes]:
        is_first = not self._begin.offset
        for chunk in self._chunks:
            if is_first:
                # A row of its own on each line; arrays, tables and compressed files begin otherwise.
                self._is_plain = chunk.lstrip(_BLANK).startswith(b"{")
                is_first = False
            for start in range(0, len(chunk), PIECE_BYTES):
                piece = chunk[start : start + PIECE_BYTES]
                if self._is_plain:
                    self._recent.append((self._at, self._lines, piece))
                    self._lines += piece.count(b"\n")
                self._at += len(piece)
                yield piece

    def forget(self, line: int) -> None:
        """Let go of what ends before a line; lines are asked for in ascending order."""
        while len(self._recent) > 1 and self._recent[1][1] < line:
            self._recent.popleft()

    def end_of(self, line: int) -> tuple[int, int]:
        """Give a line's number in the whole file and the byte behind its end; 0 where that is not known."""
        if not self._is_plain:
            return line, 0
        self.forget(line)
        offset, before, piece = self._recent[0]
        at = -1
        for _ in range(line - before):
            at = piece.find(b"\n", at + 1)
            if at < 0:
                # The last line has no line feed: what is behind it is the end of the file.
                return self._begin.line + line, self._at
        return self._begin.line + line, offset + at + 1


def _rendered(one: Excerpt, renderer: Renderer, system: str | None) -> Rendered:
    try:
        example = renderer.example(Conversation(one.turns, one.line), system=system)
    except Problem as problem:
        return Rendered(tokens=None, pieces=(), omitted=0, problem=problem.detail)
    return Rendered(
        tokens=Tokens(total=len(example), trained=len(example) - example.labels.count(IGNORED)),
        pieces=renderer.pieces(example, at_most=SHOWN_PIECES),
        omitted=max(len(example) - SHOWN_PIECES, 0),
        problem=None,
    )
