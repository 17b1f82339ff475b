"""Bases: what can be trained on and served. `bluelora import` makes them; every project sees all."""

from typing import Final

from fastapi import APIRouter

from api.dependencies import FiltersDep, Id, Reads, RuntimeDep
from api.problems import problems
from api.schemas.adapters import BaseOut
from api.schemas.lists import ListOut, listed
from core.domain.bases import BaseNotFound
from core.domain.pages import InvalidFilter, UnknownCursor
from core.services import bases

router: Final = APIRouter(prefix="/bases", tags=["bases"])


@router.get("", summary="List bases", responses=problems(UnknownCursor, InvalidFilter))
def listing(filters: FiltersDep, caller: Reads, rt: RuntimeDep) -> ListOut[BaseOut]:  # noqa: ARG001  (the role)
    """List imported bases, newest first."""
    return listed(BaseOut, bases.listing(filters, database=rt.database))


@router.get("/{base}", summary="One base", responses=problems(BaseNotFound))
def get(base: Id, caller: Reads, rt: RuntimeDep) -> BaseOut:  # noqa: ARG001  (the role)
    """Find a base by its id or its name."""
    return BaseOut.of(bases.get(base, database=rt.database))
