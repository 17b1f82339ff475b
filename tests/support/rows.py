"""Rows that other rows need: a project's caller, a base, a job."""

from core.db.transactions import Database, transaction
from core.domain import ids
from core.domain.bases import Base
from core.domain.datasets import Dataset
from core.domain.jobs import Job, JobProgress, Phase, Status
from core.domain.keys import Caller, Role


def member(database: Database, project: str = "default") -> Caller:
    """Someone who may write in a project, which is made if need be."""
    with transaction(database) as tx:
        found = tx.projects.ensure(project)
    return Caller(key_id=ids.new("key"), project_id=found.id, project=project, role=Role.MEMBER)


def base(database: Database, name: str = "nano") -> Base:
    """A registered base without files."""
    made = Base(
        id=ids.new("base"),
        name=name,
        fingerprint="f" * 64,
        template_hash="t" * 64,
        context_length=2048,
        parameters=1000,
        bytes=2000,
        files=(),
        metadata={},
        created_at=1,
    )
    with transaction(database) as tx:
        tx.bases.add(made)
    return made


def job(database: Database, *, on: Base, dataset: Dataset, validation: Dataset | None = None, status: Status) -> Job:
    """A job in some status."""
    made = Job(
        id=ids.new("job"),
        project_id=dataset.project_id,
        created_by=dataset.created_by,
        status=status,
        phase=Phase.WAITING,
        status_reason=None,
        priority=0,
        spec_sent="{}",
        spec_resolved="{}",
        name="adapter",
        base_id=on.id,
        dataset_id=dataset.id,
        validation_dataset_id=None if validation is None else validation.id,
        metadata={},
        progress=JobProgress(),
        attempt=0,
        max_attempts=4,
        failure=None,
        adapter_id=None,
        cancel_requested_at=None,
        pause_requested_at=None,
        finish_requested_at=None,
        created_at=1,
        started_at=None,
        ended_at=None,
    )
    with transaction(database) as tx:
        tx.jobs.add(made, spec_sha256="s" * 64)
    return made
