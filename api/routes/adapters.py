"""The registry: adapters, their files, and aliases that move."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Request, Response
from fastapi.responses import StreamingResponse

from api.bodies import StrictRoute, WrongContentType
from api.dependencies import FiltersDep, Id, Key, Reads, RuntimeDep, Writes
from api.forms import MalformedForm
from api.problems import problems
from api.routes.created import created
from api.routes.imports import AdapterForm
from api.routes.uploads import InvalidUpload
from api.schemas.adapters import AdapterDetailOut, AdapterOut, AliasTarget, DeletedOut
from api.schemas.lists import ListOut, listed
from core.domain.adapters import (
    Adapter,
    AdapterInUse,
    AdapterNotFound,
    BrokenAdapter,
    FileNotFound,
    InvalidReference,
    NameTaken,
)
from core.domain.bases import BaseNotFound
from core.domain.datasets import TooManyUploads
from core.domain.generation import TemplateMismatch
from core.domain.pages import InvalidFilter, UnknownCursor
from core.services import adapters, imports
from core.services.idempotency import KeyInFlight, KeyReused
from core.services.uploads import UploadLimits

router: Final = APIRouter(prefix="/adapters", tags=["adapters"], route_class=StrictRoute)

BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["name", "file"],
                    "properties": {
                        "name": {"type": "string", "examples": ["huanhuan"]},
                        "base": {"type": "string", "description": "A base's name or id; default the configured one."},
                        "system_prompt": {"type": "string", "description": "Applied when the adapter answers."},
                        "template_hash": {
                            "type": "string",
                            "description": "Of the chat format it was trained with, if known; must be the base's.",
                        },
                        "metadata": {"type": "string", "description": "A JSON object of strings."},
                        "file": {
                            "type": "array",
                            "minItems": 2,
                            "maxItems": 2,
                            "items": {"type": "string", "format": "binary"},
                            "description": "adapter_config.json, then adapter_model.safetensors, the form's last part.",
                        },
                    },
                }
            }
        },
    }
}
OUTCOMES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": AdapterDetailOut, "description": "The version that was there"}
}
REFUSALS: Final = (
    MalformedForm,
    WrongContentType,
    InvalidUpload,
    BrokenAdapter,
    BaseNotFound,
    NameTaken,
    TemplateMismatch,
    TooManyUploads,
    KeyReused,
    KeyInFlight,
)


@router.post(
    "",
    status_code=201,
    summary="Import an adapter",
    response_model=AdapterDetailOut,
    openapi_extra=BODY,
    responses=OUTCOMES | problems(*REFUSALS),
)
async def create(request: Request, key: Key, caller: Writes, rt: RuntimeDep) -> Response:
    """Import a LoRA that peft saved elsewhere for one of the bases here, BlueLM's own remote-code class included.

    Send a form: `curl -F name=huanhuan -F file=@adapter_config.json -F file=@adapter_model.safetensors`, the weights
    last. They are checked while they arrive: plain LoRA, the base's shapes, finite values, some effect. What knows no
    chat format is taken to have the base's. The same files, base and system prompt under one name again give the
    version that is there (200); others make `name@N+1`.
    """
    settings = rt.settings
    form = AdapterForm(request)
    announced = await form.read()
    with rt.uploads.taken():
        imported = await imports.receive(
            form.weights(),
            said=announced.said,
            config=announced.config,
            caller=caller,
            key=key,
            store=rt.store,
            database=rt.database,
            policy=rt.policy,
            limits=UploadLimits(bytes=settings.max_upload_bytes, validation_wait_s=settings.validation_wait_s),
            show=_shown,
        )
    return created(imported.answer, location=f"/adapters/{imported.adapter_id}", replayed=imported.replayed)


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


def _shown(adapter: Adapter) -> str:
    return AdapterDetailOut.of(adapter).model_dump_json()
