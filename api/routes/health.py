"""Is it alive, is it ready, what has it done, what is it."""

from importlib.metadata import version as installed
from typing import Final, Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from api.dependencies import MetersDep, Reads, RuntimeDep
from api.problems import problems
from api.schemas.keys import WorkerOut
from api.schemas.lists import ListOut, Out, listed
from core.domain.keys import InvalidKey, RoleTooLow
from core.services import health, workers

router: Final = APIRouter(tags=["service"])
FEATURES: Final = ("datasets", "jobs", "adapters", "generate", "openai_chat")


class AliveOut(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class VersionOut(BaseModel):
    """Which release serves, and what it can do; features only grow."""

    version: str
    features: list[str]


@router.get("/healthz", summary="Liveness")
async def alive() -> AliveOut:
    """Answer while the process runs; touches nothing else."""
    return AliveOut()


@router.get("/version", summary="Version and features")
async def version() -> VersionOut:
    """Name the release and its features."""
    return VersionOut(version=installed("bluelora"), features=list(FEATURES))
