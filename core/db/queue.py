"""Which job is next: the highest priority, then the project with the fewest running jobs, then the oldest."""

from typing import Final

from sqlalchemy import ColumnElement, ScalarSelect, func, or_, select

from core.db import tables
from core.db.clocks import LeaseClock
from core.domain.jobs import Status
from core.domain.workers import WorkerInfo

waiting: Final = tables.jobs.alias("waiting")
"""The table of jobs under a second name, so that an UPDATE of jobs can ask for the next one."""


def ready(clock: LeaseClock, *, older_than_s: float = 0.0) -> list[ColumnElement[bool]]:
    """Say in SQL that a job of `waiting` may run, and could have for `older_than_s` seconds.

    A moment of an earlier boot has passed, whatever this boot's clock says.
    """
    return [
        waiting.c.status == Status.QUEUED.value,
        waiting.c.cancel_requested_at.is_(None),
        waiting.c.deleted_at.is_(None),
        or_(waiting.c.not_before + older_than_s <= clock.now(), waiting.c.boot_id != clock.boot_id),
    ]


def next_for(worker: WorkerInfo, *, clock: LeaseClock) -> ScalarSelect[str]:
    """Choose a job that fits this worker's device; rows that another worker is claiming are passed over."""
    running = tables.jobs.alias("running")
    busy = (
        select(running.c.project_id, func.count().label("jobs"))
        .where(running.c.status == Status.RUNNING.value)
        .group_by(running.c.project_id)
        .subquery("busy")
    )
    fits = tables.bases.c.parameters <= worker.max_parameters
    order = (waiting.c.priority.desc(), func.coalesce(busy.c.jobs, 0), waiting.c.id)
    return (
        select(waiting.c.id)
        .join(tables.bases, tables.bases.c.id == waiting.c.base_id)
        .outerjoin(busy, busy.c.project_id == waiting.c.project_id)
        .where(*ready(clock), fits)
        .order_by(*order)
        .limit(1)
        .with_for_update(skip_locked=True, of=waiting)
        .scalar_subquery()
    )
