"""The registry: adapters, their files, and aliases that move."""

from typing import Annotated, Final

from fastapi import APIRouter, Body
from fastapi.responses import StreamingResponse

from api.bodies import StrictRoute
from api.dependencies import FiltersDep, Id, Reads, RuntimeDep, Writes
from api.problems import problems
from api.schemas.adapters import AdapterDetailOut, AdapterOut, AliasTarget, DeletedOut
from api.schemas.lists import ListOut, listed
from core.domain.adapters import AdapterInUse, AdapterNotFound, FileNotFound, InvalidReference
from core.domain.pages import InvalidFilter, UnknownCursor
from core.services import adapters

router: Final = APIRouter(prefix="/adapters", tags=["adapters"], route_class=StrictRoute)


@router.get("", summary="List adapters", responses=problems(UnknownCursor, InvalidFilter))
def listing(filters: FiltersDep, caller: Reads, rt: RuntimeDep) -> ListOut[AdapterOut]:
    """List your project's adapters, newest first; `status` filters by kind: `final`, `checkpoint` or `imported`."""
    return listed(AdapterOut, adapters.listing(filters, caller=caller, database=rt.database))


@router.get("/{adapter}", summary="One adapter", responses=problems(AdapterNotFound, InvalidReference))
def get(adapter: Id, caller: Reads, rt: RuntimeDep) -> AdapterDetailOut:
    """Find an adapter by any reference: `ad_…`, `name` (newest), `name@N`, `name@alias`, `job_…@latest`."""
    return AdapterDetailOut.of(adapters.get(adapter, caller=caller, database=rt.database))


@router.get(
    "/{adapter}/files/{name}",
    summary="One file of an adapter",
    response_class=StreamingResponse,
    responses=problems(AdapterNotFound, FileNotFound),
)
def file(adapter: Id, name: Id, caller: Reads, rt: RuntimeDep) -> StreamingResponse:
    """Download one file; together the files are a folder that `peft.PeftModel.from_pretrained` loads.

    `ETag` is the file's sha256.
    """
    opened = adapters.file(adapter, name, caller=caller, store=rt.store, database=rt.database)
    headers = {"Content-Length": str(opened.file.bytes), "ETag": f'"{opened.file.sha256}"'}
    return StreamingResponse(opened.chunks, media_type="application/octet-stream", headers=headers)


@router.delete(
    "/{adapter}", summary="Delete an adapter", responses=problems(AdapterNotFound, AdapterInUse, InvalidReference)
)
def delete(adapter: Id, caller: Writes, rt: RuntimeDep) -> DeletedOut:
    """Delete one adapter, by its `ad_…` id or as `name@N`, that no alias points at; its number is never used again."""
    gone = adapters.delete(adapter, caller=caller, database=rt.database)
    return DeletedOut(id=gone.id, object="adapter")


@router.put("/{name}/aliases/{alias}", summary="Move an alias", responses=problems(AdapterNotFound, InvalidReference))
def put_alias(
    name: Id,
    alias: Id,
    target: Annotated[AliasTarget, Body(openapi_examples={"first": {"value": {"version": 1}}})],
    caller: Writes,
    rt: RuntimeDep,
) -> AdapterOut:
    """Make `name@alias` mean one version from now on; requests see the old or the new one, never neither."""
    reference = f"{name}@{target.version}"
    return AdapterOut.of(adapters.put_alias(name, alias, reference=reference, caller=caller, database=rt.database))


@router.delete("/{name}/aliases/{alias}", summary="Remove an alias", responses=problems(AdapterNotFound))
def delete_alias(name: Id, alias: Id, caller: Writes, rt: RuntimeDep) -> DeletedOut:
    """Remove an alias; the adapter stays."""
    adapters.delete_alias(name, alias, caller=caller, database=rt.database)
    return DeletedOut(id=f"{name}@{alias}", object="alias")
