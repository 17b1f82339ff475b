"""Lists: what a caller asks for, and one page of the answer. Ids sort by creation, so they are the cursor."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from core.domain import ids
from core.errors import Finding, Invalid

T = TypeVar("T")
MAX_LIMIT: Final = 1000


class InvalidFilter(Invalid):
    """A filter that no row could ever match."""

    code = "invalid_filter"


class UnknownCursor(Invalid):
    """`after` is not an id of what is listed."""

    code = "unknown_cursor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which rows of a list are wanted; newest first, strictly after the id `after` in that order.

    `created_after` is in Unix seconds. Every pair of `metadata` must match.

    Raises:
        InvalidFilter: A limit out of range, or text that can't be stored and so can't be found.
    """

    limit: int = 20
    after: str | None = None
    name: str | None = None
    status: str | None = None
    created_after: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.limit <= MAX_LIMIT:
            raise InvalidFilter(f"limit is {self.limit}; it may be 1 to {MAX_LIMIT}.", param="limit")
        if self.created_after is not None and not 0 <= self.created_after < 2**53:
            raise InvalidFilter("created_after is in Unix seconds.", param="created_after")
        texts = [self.name or "", self.status or "", *self.metadata, *self.metadata.values()]
        if any("\0" in text for text in texts):
            raise InvalidFilter("A filter holds the character NUL, which no name and no metadata has.")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows of a list, and whether more follow."""

    data: tuple[T, ...]
    has_more: bool


def cursor(filters: Filters, prefix: ids.Prefix) -> str | None:
    """Give the id to continue after; it works even when its row is gone.

    Raises:
        UnknownCursor: `after` is no id with this prefix.
    """
    if filters.after is not None and not ids.is_id(filters.after, prefix):
        what = f"after is {filters.after[:60]!r}; it takes the {prefix}_… id of the last item seen."
        finding = Finding(code="unknown_cursor", message=what, field="after")
        raise UnknownCursor(what, param="after", findings=(finding,))
    return filters.after
