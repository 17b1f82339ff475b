"""Is it alive, is it ready, what has it done, what is it."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

import core
from api.dependencies import MetersDep, Reads, RuntimeDep
from api.schemas.keys import WorkerOut
from api.schemas.lists import ListOut, Out, listed
from core.domain.pages import Page
from core.services import health, jobs, workers
from core.services.health import Part

router: Final = APIRouter(tags=["service"])
FEATURES: Final = ("datasets", "dataset_rows", "jobs", "job_plans", "adapters", "generate", "openai_chat")


class AliveOut(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class VersionOut(BaseModel):
    """Which release serves, and what it can do; features only grow."""

    version: str
    features: list[str]


class PartOut(Out):
    """One part of the deployment: `degraded` parts don't keep requests from being served."""

    name: str
    status: Literal["ok", "degraded", "down"]
    detail: str


class ReadyOut(Out):
    """Whether requests can be served, and how each part is."""

    ready: bool
    parts: list[PartOut]


@router.get("/healthz", summary="Liveness")
async def alive() -> AliveOut:
    """Answer while the process runs; touches nothing else."""
    return AliveOut()


@router.get("/version", summary="Version and features")
async def version() -> VersionOut:
    """Name the release and its features."""
    return VersionOut(version=core.__version__, features=list(FEATURES))


async def engines(rt: RuntimeDep) -> list[Part]:
    """Say how each engine is; one that is down degrades, since data sets and jobs need none."""
    return [
        Part(name=f"engine {state.number}", status="ok", detail=", ".join(state.bases))
        if state.is_up
        else Part(name=f"engine {state.number}", status="degraded", detail="It does not answer.")
        for state in await rt.engines.health()
    ]


@router.get("/readyz", summary="Readiness", responses={503: {"model": ReadyOut}})
def ready(rt: RuntimeDep, engines: Annotated[list[Part], Depends(engines)], response: Response) -> ReadyOut:
    """Say whether requests can be served: 200 while database and storage work, else 503.

    Broker, engines and workers are named too; without them requests are still taken.
    """
    found = health.readiness(database=rt.database, store=rt.store, broker_url=rt.broker_url, engines=engines)
    response.status_code = 200 if found.ready else 503
    return ReadyOut.of(found)


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
def metrics(caller: Reads, rt: RuntimeDep, meters: MetersDep) -> Response:  # noqa: ARG001  (the role)
    """Show counters of this process, and jobs and workers of the deployment; Prometheus sends a key as bearer token."""
    for status, count in jobs.counts(database=rt.database).items():
        meters.jobs.labels(status).set(count)
    meters.workers.set(len(workers.alive(database=rt.database)))
    return Response(generate_latest(meters.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/workers", summary="List workers")
def listing(caller: Reads, rt: RuntimeDep) -> ListOut[WorkerOut]:  # noqa: ARG001  (the role)
    """List the workers of the last day, the latest started first; `last_seen` tells the living from the gone."""
    return listed(WorkerOut, Page(workers.listing(database=rt.database), has_more=False))
