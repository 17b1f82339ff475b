"""Keys: who may do what. An admin's affair; each change is an audit row."""

from typing import Annotated, Final

from fastapi import APIRouter, Body

from api.bodies import StrictRoute
from api.dependencies import Administers, FiltersDep, Id, RuntimeDep
from api.problems import problems
from api.schemas.keys import KeyOut, KeyRequest, NewKeyOut
from api.schemas.lists import ListOut, listed
from core.domain.keys import InvalidKeyName, KeyNotFound, Role, RoleTooLow
from core.domain.pages import InvalidFilter, UnknownCursor
from core.services import keys

router: Final = APIRouter(prefix="/keys", tags=["keys"], route_class=StrictRoute)
EXAMPLES: Final = {"reader": {"value": {"name": "dashboard", "role": "read"}}}


@router.post("", status_code=201, summary="Make a key", responses=problems(RoleTooLow, InvalidKeyName))
def create(
    asked: Annotated[KeyRequest, Body(openapi_examples=EXAMPLES)], caller: Administers, rt: RuntimeDep
) -> NewKeyOut:
    """Make a key of your project; an admin of project `default` may name another, which is made if need be.

    The answer has the secret, this once. A repeated request makes another key: secrets are kept nowhere, so there is
    nothing that could be answered again.
    """
    made = keys.create(
        role=Role(asked.role),
        name=asked.name,
        project=asked.project,
        caller=caller,
        database=rt.database,
        pepper=rt.pepper,
    )
    return NewKeyOut.of_new(made)


@router.get("", summary="List keys", responses=problems(RoleTooLow, UnknownCursor, InvalidFilter))
def listing(filters: FiltersDep, caller: Administers, rt: RuntimeDep) -> ListOut[KeyOut]:
    """List your project's keys, newest first, without secrets; `status` filters `active` or `revoked`."""
    return listed(KeyOut, keys.listing(filters, caller=caller, database=rt.database))


@router.delete("/{key}", summary="Revoke a key", responses=problems(RoleTooLow, KeyNotFound))
def revoke(key: Id, caller: Administers, rt: RuntimeDep) -> KeyOut:
    """End a key: its next request is refused. Revoking twice changes nothing."""
    return KeyOut.of(keys.revoke(key, caller=caller, database=rt.database))
