"""Job rows as values and back, and statuses as conditions."""

from dataclasses import asdict
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, select

from core.db import tables
from core.domain.jobs import Failure, FailureClass, Job, JobProgress, MadeAdapter, Phase, Status

_t: Final = tables.jobs
_a: Final = tables.adapters
_made: Final = (
    _a.c.id.label("adapter_id"),
    _a.c.name.label("adapter_name"),
    _a.c.version.label("adapter_version"),
    _a.c.manifest_sha256.label("adapter_sha256"),
)


def visible(project_id: str | None) -> Select[Any]:
    """Select jobs that are not deleted, of one project or of all, with the adapter each made."""
    final = and_(_a.c.job_id == _t.c.id, _a.c.kind == "final")
    rows = select(_t, *_made).select_from(_t.outerjoin(_a, final)).where(_t.c.deleted_at.is_(None))
    return rows if project_id is None else rows.where(_t.c.project_id == project_id)


def shown_as(status: str) -> ColumnElement[bool]:
    """Say in SQL that users see a job under this status; `pausing` is running with a request to pause."""
    pausing = and_(
        _t.c.status == Status.RUNNING.value, _t.c.pause_requested_at.is_not(None), _t.c.cancel_requested_at.is_(None)
    )
    if status == "pausing":
        return pausing
    return and_(_t.c.status == status, ~pausing)


def columns(job: Job) -> dict[str, Any]:
    """Give the columns that a job's value fills."""
    values = asdict(job)
    del values["adapter"]
    return values | {"metadata": dict(job.metadata), "status": job.status.value, "phase": job.phase.value}


def job(row: Row[Any]) -> Job:
    """Make the value of a row of `visible`."""
    return Job(
        id=row.id,
        project_id=row.project_id,
        created_by=row.created_by,
        status=Status(row.status),
        phase=Phase(row.phase),
        status_reason=row.status_reason,
        priority=row.priority,
        spec_sent=row.spec_sent,
        spec_resolved=row.spec_resolved,
        name=row.name,
        base_id=row.base_id,
        dataset_id=row.dataset_id,
        validation_dataset_id=row.validation_dataset_id,
        metadata=row.metadata,
        progress=JobProgress(**row.progress),
        attempt=row.attempt,
        charged=row.charged,
        refunds=row.refunds,
        max_attempts=row.max_attempts,
        failure=None if row.failure is None else _failure(row.failure),
        adapter=None if row.adapter_id is None else _adapter(row),
        cancel_requested_at=row.cancel_requested_at,
        pause_requested_at=row.pause_requested_at,
        finish_requested_at=row.finish_requested_at,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def _adapter(row: Row[Any]) -> MadeAdapter:
    return MadeAdapter(id=row.adapter_id, name=row.adapter_name, version=row.adapter_version, sha256=row.adapter_sha256)


def _failure(kept: dict[str, Any]) -> Failure:
    return Failure(**(kept | {"failure_class": FailureClass(kept["failure_class"])}))
