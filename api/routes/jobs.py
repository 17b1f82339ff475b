"""Jobs: plan a training, ask for it, watch it, stop it."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Query, Response

from api.bodies import StrictRoute
from api.dependencies import FiltersDep, Id, Key, Reads, RequestSha256, RuntimeDep, SentJson, Writes
from api.problems import problems
from api.routes.created import created
from api.schemas.jobs import EventOut, JobOut, MetricOut
from api.schemas.lists import ListOut, listed
from api.schemas.plans import PlanOut
from core.domain.adapters import NameTaken
from core.domain.bases import BaseNotFound, BaseUnusable
from core.domain.datasets import DatasetNotFound, DatasetNotReady, InvalidDataset
from core.domain.generation import InvalidMessages
from core.domain.jobs import Job, JobAlreadyFinished, JobNotFound
from core.domain.keys import RoleTooLow
from core.domain.pages import InvalidFilter, Page, UnknownCursor
from core.domain.splits import CannotSplit
from core.domain.training import InvalidSpec, TrainSpec
from core.services import jobs, plans
from core.services.idempotency import KeyInFlight, KeyReused
from core.services.planners import PlanFailed, TooComplex, TooManyPlans
from core.text.examples import OverlongRows
from core.text.prepared import NoRowsLeft, NoValidationRows

router: Final = APIRouter(prefix="/jobs", tags=["jobs"], route_class=StrictRoute)
EXAMPLES: Final[dict[str, Any]] = {
    "tutorial": {
        "summary": "The tutorial's recipe",
        "value": {"dataset": "huanhuan", "name": "huanhuan", "system_prompt": "现在你要扮演皇帝身边的女人--甄嬛"},
    },
    "own": {
        "summary": "With a schedule and validation",
        "value": {"dataset": "huanhuan@1", "name": "huanhuan", "preset": "chat-1", "num_train_epochs": 2, "r": 16},
    },
    "clean": {
        "summary": "Without duplicates, a twentieth kept for validation",
        "value": {"dataset": "huanhuan", "name": "huanhuan", "deduplicate": True, "validation_ratio": 0.05},
    },
}


REFUSALS: Final = (
    DatasetNotFound,
    DatasetNotReady,
    InvalidDataset,
    BaseNotFound,
    InvalidSpec,
    NameTaken,
    RoleTooLow,
    jobs.TooManyJobs,
    CannotSplit,
    KeyReused,
    KeyInFlight,
)
PLAN_REFUSALS: Final = (
    DatasetNotFound,
    DatasetNotReady,
    InvalidDataset,
    BaseNotFound,
    BaseUnusable,
    InvalidSpec,
    NameTaken,
    RoleTooLow,
    CannotSplit,
    InvalidMessages,
    OverlongRows,
    NoRowsLeft,
    NoValidationRows,
    TooComplex,
    TooManyPlans,
    PlanFailed,
)


@router.post(
    "",
    status_code=202,
    summary="Start a job",
    response_model=JobOut,
    responses=problems(*REFUSALS),
)
def create(
    spec: Annotated[TrainSpec, Body(openapi_examples=EXAMPLES)],
    sent: SentJson,
    key: Key,
    request_sha256: RequestSha256,
    caller: Writes,
    rt: RuntimeDep,
) -> Response:
    """Queue one LoRA training; what can be known before a GPU is touched is checked now.

    Only `dataset` and `name` are needed: every other field has the tutorial's value, or the preset's. The answer has
    the job with its complete `resolved_spec`, and `Location` says where to watch it.
    """
    submitted = jobs.submit(
        spec,
        sent,
        caller=caller,
        key=key,
        request_sha256=request_sha256,
        policy=rt.policy,
        database=rt.database,
        wake=rt.wake,
        show=_shown,
    )
    return created(submitted.answer, location=f"/jobs/{submitted.job.id}", replayed=submitted.replayed)


@router.post("/plan", summary="Plan a job", responses=problems(*PLAN_REFUSALS))
def plan(spec: Annotated[TrainSpec, Body(openapi_examples=EXAMPLES)], caller: Writes, rt: RuntimeDep) -> PlanOut:
    """Say what a job with this body would do; nothing is made, and no GPU is needed.

    The rows are read, rendered and packed by the code that trains, so tokens and steps are the very ones that the job
    would log, and the previews show which tokens are learnt. What `POST /jobs` would refuse is refused here, and so is
    what the trainer would find in the rows. Of a large file the first rows stand for all: `estimated` says so.
    """
    made = plans.plan(
        spec,
        caller=caller,
        policy=rt.policy,
        planners=rt.planners,
        renderers=rt.renderers,
        store=rt.store,
        database=rt.database,
    )
    return PlanOut.of(made)


@router.get("", summary="List jobs", responses=problems(UnknownCursor, InvalidFilter))
def listing(filters: FiltersDep, caller: Reads, rt: RuntimeDep) -> ListOut[JobOut]:
    """List your project's jobs, newest first."""
    return listed(JobOut, jobs.listing(filters, caller=caller, database=rt.database))


@router.get("/{job}", summary="One job", responses=problems(JobNotFound))
def get(job: Id, caller: Reads, rt: RuntimeDep) -> JobOut:
    """Say where a job stands: status, phase, progress, failure, and the adapter it made."""
    return JobOut.of(jobs.get(job, caller=caller, database=rt.database))


@router.get("/{job}/events", summary="A job's log", responses=problems(JobNotFound))
def events(
    job: Id,
    caller: Reads,
    rt: RuntimeDep,
    after: Annotated[int, Query(ge=0, le=2**31, description="The `seq` of the last event seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> ListOut[EventOut]:
    """Read the job's append-only log in the order it happened; numbers have no gaps."""
    page = jobs.events(job, caller=caller, database=rt.database, after_seq=after, limit=limit)
    return listed(EventOut, page)


@router.get("/{job}/metrics", summary="What was measured", responses=problems(JobNotFound))
def metrics(job: Id, caller: Reads, rt: RuntimeDep) -> ListOut[MetricOut]:
    """Read loss, learning rate, gradient norm, speed and evaluation loss by step, the first step first."""
    measured = jobs.metrics(job, caller=caller, database=rt.database)
    return listed(MetricOut, Page(measured, has_more=False))


@router.post(
    "/{job}/cancel", status_code=202, summary="Cancel a job", responses=problems(JobNotFound, JobAlreadyFinished)
)
def cancel(job: Id, caller: Writes, rt: RuntimeDep) -> JobOut:
    """Ask that a job stops; asking again changes nothing.

    A queued job is cancelled at once. A running one shows `phase: cancelling` until its worker has stopped, at a step
    end, within two heartbeats.
    """
    return JobOut.of(jobs.cancel(job, caller=caller, database=rt.database))


def _shown(job: Job) -> str:
    return JobOut.of(job).model_dump_json()
