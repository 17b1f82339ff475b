"""Plan a job: everything that can be known before a GPU is touched, and nothing is made."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

from core.db.transactions import Database, snapshot
from core.domain.advice import advice
from core.domain.datasets import Dataset
from core.domain.keys import Caller
from core.domain.memory import Memory, Precision
from core.domain.plans import Outline, Plan, Time
from core.domain.training import TrainSpec
from core.domain.workers import BF16, WorkerInfo
from core.errors import Finding, Unavailable
from core.services import submissions
from core.services.planners import Planners, Source, Wanted
from core.services.renderers import Renderers
from core.services.submissions import Policy
from core.storage.objects import Store
from core.text.shares import Size

MEASURED: Final = 20
"""So many past attempts on the base say how fast this deployment is."""
GIB: Final = 2**30


class BytesMissing(Unavailable):
    """A ready data set has no bytes."""

    code = "object_missing"


def plan(
    spec: TrainSpec,
    *,
    caller: Caller,
    policy: Policy,
    planners: Planners,
    renderers: Renderers,
    store: Store,
    database: Database,
) -> Plan:
    """Say what a job with this spec would do, and cost.

    Args:
        spec: As validated.
        caller: Who would submit it.
        policy: Of this deployment.
        planners: Make outlines.
        renderers: Bring the text files of bases here.
        store: Where the data sets' bytes are.
        database: Where everything else is.

    Raises:
        Problem: What `submissions.submit` would say, but for a full queue; what the trainer would say of the rows.
        TooManyPlans, TooComplex, PlanFailed: See core/services/planners.py.
    """
    submissions.check_role(spec, caller)
    with snapshot(database) as tx:
        found = submissions.resolve(tx, spec, caller=caller, policy=policy, holds=False)
        speeds = tx.attempts.speeds(found.base.id, at_most=MEASURED)
        workers = tuple(worker for worker in tx.workers.alive() if not worker.draining)
    wanted = Wanted(
        spec=found.spec,
        fingerprint=found.base.fingerprint,
        parameters=found.base.parameters,
        folder=partial(renderers.folder, found.base),
        data=_source(found.dataset, store),
        validation=None if found.validation is None else _source(found.validation, store),
    )
    outline = planners.outline(wanted)
    memory = outline.peaks[_precision(workers)]
    fitting = sum(worker.memory_bytes >= memory.total_bytes for worker in workers)
    return Plan(
        spec=found.spec,
        dataset=found.dataset,
        outline=outline,
        memory=memory,
        workers=len(workers),
        fitting_workers=fitting,
        time=_time(outline, speeds),
        warnings=(*advice(found.spec, outline), *_fit(memory, workers, fitting)),
    )


def _source(dataset: Dataset, store: Store) -> Source:
    if dataset.object_key is None or dataset.summary is None:
        raise BytesMissing(f"The bytes of {dataset.reference} are gone.", param="dataset")
    summary = dataset.summary
    return Source(
        sha256=dataset.sha256,
        size_bytes=dataset.bytes,
        size=Size(rows=summary.rows, characters=summary.prompt_characters + summary.answer_characters),
        chunks=partial(store.chunks, dataset.object_key),
    )


def _precision(workers: Sequence[WorkerInfo]) -> Precision:
    """What trains here: a GPU unless there are workers and none has one."""
    return "bf16" if not workers or any(BF16 in worker.capabilities for worker in workers) else "fp32"


def _time(outline: Outline, speeds: Sequence[float]) -> Time:
    if not speeds:
        reason = "No attempt on this base has ended here yet, so its speed is unknown."
        return Time(low=None, high=None, measured_attempts=0, reason=reason)
    return Time(
        low=outline.low / max(speeds),
        high=outline.high / min(speeds),
        measured_attempts=len(speeds),
        reason=None,
    )


def _fit(memory: Memory, workers: Sequence[WorkerInfo], fitting: int) -> Iterator[Finding]:
    if not workers:
        yield Finding(
            code="no_worker",
            message="No worker is there, so the job would wait.",
            hint="Start one; plans don't need any.",
        )
    elif not fitting:
        largest = max(worker.memory_bytes for worker in workers)
        yield Finding(
            code="does_not_fit",
            message=f"The training takes about {memory.total_bytes / GIB:.1f} GiB; the largest worker here has "
            f"{largest / GIB:.1f} GiB.",
            field="base_model",
            hint="Lower r, pack_length or per_device_train_batch_size, or train a smaller base.",
        )
