"""Submit a job: everything that can be known before a GPU is touched is checked here, then one row is the queue."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from core.db.clocks import wall
from core.db.transactions import Database, Transaction, transaction
from core.domain import ids, training
from core.domain.adapters import NameTaken
from core.domain.bases import Base
from core.domain.datasets import Dataset, DatasetNotFound, DatasetNotReady, InvalidDataset
from core.domain.jobs import Job, JobProgress, Phase, Status
from core.domain.keys import Caller, Role, RoleTooLow
from core.domain.splits import CannotSplit
from core.domain.training import TrainSpec
from core.errors import Overloaded
from core.services import bases, idempotency
from core.services.idempotency import Stored
from core.services.lookups import explained, found
from core.wake import Wake

MAX_ATTEMPTS: Final = 4


class TooManyJobs(Overloaded):
    """The project has as many queued jobs as this deployment allows."""

    code = "too_many_queued_jobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What this deployment gives and allows to jobs. `default_base` None: the only base there is."""

    default_base: str | None
    max_lora_rank: int
    max_queued_jobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job, what its request is answered, and whether an earlier request with the same key made it.

    A repeated request gets the first one's `answer`, word for word, whatever has become of the job since.
    """

    job: Job
    answer: Stored
    replayed: bool


def name_only(job: Job) -> str:
    """The least that an answer can say of a job; a repeated request finds the job by it."""
    return json.dumps({"id": job.id})


def submit(
    spec: TrainSpec,
    sent_json: str,
    *,
    caller: Caller,
    key: str | None,
    request_sha256: str,
    policy: Policy,
    database: Database,
    wake: Wake,
    show: Callable[[Job], str] = name_only,
) -> Submitted:
    """Queue one job, or give the one this key made.

    The row is the queue: if we die before `wake`, a sweep wakes a worker later.

    Args:
        spec: As validated.
        sent_json: The same as it came, kept word for word.
        caller: Whose job it is.
        key: The Idempotency-Key, if one came.
        request_sha256: Of the request that the key stands for.
        policy: Of this deployment.
        database: Where the job is put.
        wake: Told of the job once it is committed.
        show: Writes the answer, a JSON object with the job's `id`, which is kept under the key.

    Raises:
        RoleTooLow: A priority above 0 from a key that is no admin.
        DatasetNotFound, DatasetNotReady, InvalidDataset: Of the data sets the spec names.
        BaseNotFound: No such base, or several and none named.
        NameTaken: The adapter would be called like a base.
        InvalidSpec: Fields contradict each other or the limits.
        CannotSplit: A part of one row is wanted for validation.
        TooManyJobs: The project's queue is full.
        KeyReused, KeyInFlight: See core/services/idempotency.py.
    """
    check_role(spec, caller)
    with transaction(database) as tx:
        earlier = idempotency.replay(tx, project_id=caller.project_id, key=key, request_sha256=request_sha256)
        if earlier is not None:
            made = found(tx, json.loads(earlier.response)["id"], caller)
            return Submitted(job=explained(tx, [made])[0], answer=earlier, replayed=True)
        job = _queued(tx, spec, sent_json, caller=caller, policy=policy)
        tx.jobs.add(job, spec_sha256=hashlib.sha256(job.spec_resolved.encode()).hexdigest())
        tx.outbox.add("wake", job_id=job.id)
        job = explained(tx, [job])[0]
        answer = Stored(status=202, response=show(job))
        idempotency.remember(tx, project_id=caller.project_id, key=key, answer=answer)
    wake(job.id)
    return Submitted(job=job, answer=answer, replayed=False)


def check_role(spec: TrainSpec, caller: Caller) -> None:
    """See that the caller may ask for this at all.

    Raises:
        RoleTooLow: A priority above 0 from a key that is no admin.
    """
    if spec.priority > 0 and caller.role is not Role.ADMIN:
        raise RoleTooLow("A priority above 0 needs an admin key; send 0 or less.", param="priority")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """A spec with everything that it names."""

    spec: TrainSpec
    base: Base
    dataset: Dataset
    validation: Dataset | None


def resolve(tx: Transaction, spec: TrainSpec, *, caller: Caller, policy: Policy, holds: bool) -> Resolved:
    """Find what a spec names and check what can be known without reading data; for jobs and plans alike.

    Args:
        tx: Where things are.
        spec: As validated.
        caller: Whose they are.
        policy: Of this deployment.
        holds: Whether the data sets shall be kept from being deleted until `tx` ends.

    Raises:
        BaseNotFound, NameTaken, DatasetNotFound, DatasetNotReady, InvalidDataset, InvalidSpec, CannotSplit.
    """
    base = bases.choose(tx, spec.base_model, default=policy.default_base)
    if tx.bases.called(spec.name) is not None:
        raise NameTaken(f"{spec.name!r} is the name of a base; give the adapter another.", param="name")
    dataset = _dataset(tx, spec.dataset, caller=caller, param="dataset", holds=holds)
    validation = None
    if spec.validation_dataset is not None:
        validation = _dataset(tx, spec.validation_dataset, caller=caller, param="validation_dataset", holds=holds)
    limits = training.Limits(
        base_model=base.name, context_length=base.context_length, max_lora_rank=policy.max_lora_rank
    )
    validation_id = None if validation is None else validation.id
    resolved = training.resolve(spec, dataset=dataset.id, validation_dataset=validation_id, limits=limits)
    if resolved.validation_ratio is not None and dataset.summary is not None and dataset.summary.rows < 2:
        raise CannotSplit(
            f"validation_ratio needs at least two rows; {dataset.reference} has {dataset.summary.rows}. Upload more, "
            "or send a validation_dataset.",
            param="validation_ratio",
        )
    return Resolved(spec=resolved, base=base, dataset=dataset, validation=validation)


def _queued(tx: Transaction, spec: TrainSpec, sent_json: str, *, caller: Caller, policy: Policy) -> Job:
    if tx.jobs.waiting(caller.project_id) >= policy.max_queued_jobs:
        raise TooManyJobs(
            f"This project has {policy.max_queued_jobs} queued jobs, which is the limit; try later.", retry_after_s=60.0
        )
    resolved = resolve(tx, spec, caller=caller, policy=policy, holds=True)
    return Job(
        id=ids.new("job"),
        project_id=caller.project_id,
        created_by=caller.key_id,
        status=Status.QUEUED,
        phase=Phase.WAITING,
        status_reason=None,
        priority=spec.priority,
        spec_sent=sent_json,
        spec_resolved=resolved.spec.model_dump_json(),
        name=spec.name,
        base_id=resolved.base.id,
        dataset_id=resolved.dataset.id,
        validation_dataset_id=None if resolved.validation is None else resolved.validation.id,
        metadata=dict(spec.metadata),
        progress=JobProgress(),
        attempt=0,
        max_attempts=MAX_ATTEMPTS,
        failure=None,
        adapter=None,
        cancel_requested_at=None,
        pause_requested_at=None,
        finish_requested_at=None,
        created_at=wall(),
        started_at=None,
        ended_at=None,
    )


def _dataset(tx: Transaction, reference: str, *, caller: Caller, param: str, holds: bool) -> Dataset:
    """Find a data set that can be trained on now, and keep it from being deleted meanwhile."""
    dataset = tx.datasets.referred(reference, project_id=caller.project_id)
    if dataset is None or (holds and not tx.datasets.hold(dataset.id)):
        raise DatasetNotFound(
            f"There is no data set {reference[:100]!r}; use its ds_… id, its name, or name@N.", param=param
        )
    if dataset.status == "processing":
        raise DatasetNotReady(f"Data set {dataset.id} is still being validated.", param=param, retry_after_s=2.0)
    if dataset.status == "invalid":
        raise InvalidDataset(f"Data set {dataset.id} is not valid; its report says why.", param=param)
    return dataset
