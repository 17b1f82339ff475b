"""One page of a table: the filters every list takes, newest first, in pages that inserts never shift."""

from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import Connection, Row, Select, Table

from core.db.dialects import has_pairs
from core.domain.pages import Filters, Page

T = TypeVar("T")


def page(
    connection: Connection,
    rows: Select[Any],
    table: Table,
    filters: Filters,
    *,
    after: str | None,
    value: Callable[[Row[Any]], T],
) -> Page[T]:
    """Read one page of `rows`, which select from `table` by its project already.

    `filters.status` is left to the caller: what a status means differs from table to table.
    """
    if after is not None:
        rows = rows.where(table.c.id < after)
    if filters.name is not None:
        rows = rows.where(table.c.name == filters.name)
    if filters.created_after is not None:
        rows = rows.where(table.c.created_at > filters.created_after)
    if filters.metadata:
        rows = rows.where(*has_pairs(connection, table.c.metadata, filters.metadata))
    found = connection.execute(rows.order_by(table.c.id.desc()).limit(filters.limit + 1)).all()
    return Page(tuple(value(row) for row in found[: filters.limit]), has_more=len(found) > filters.limit)
