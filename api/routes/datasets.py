"""Data sets: upload, look, delete."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Response

from api.bodies import WrongContentType
from api.dependencies import FiltersDep, Id, Key, Reads, RuntimeDep, Writes
from api.forms import MalformedForm
from api.problems import problems
from api.routes.created import created
from api.routes.uploads import RAW, IncomingDep, InvalidUpload
from api.schemas.adapters import DeletedOut
from api.schemas.datasets import DatasetOut, RowOut
from api.schemas.lists import ListOut, listed
from core.domain.bases import BaseNotFound, BaseUnusable
from core.domain.datasets import (
    Dataset,
    DatasetInUse,
    DatasetNotFound,
    DatasetNotReady,
    DatasetTooLarge,
    InvalidDataset,
    TooManyUploads,
)
from core.domain.excerpts import PageTooDeep, TooManyTurns
from core.domain.pages import InvalidFilter, UnknownCursor
from core.services import datasets, excerpts
from core.services.idempotency import KeyInFlight, KeyReused
from core.services.pagers import PageFailed, TooManyPages
from core.services.uploads import ChecksumMismatch, InvalidDatasetName, UploadLimits

router: Final = APIRouter(prefix="/datasets", tags=["datasets"])
BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "description": "A form, or the file itself. Raw bodies may name their type, and gzip and Zstandard files are sent as "
        "they are, without Content-Encoding; the content decides. Types: " + ", ".join(sorted(RAW - {""})) + ".",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string", "examples": ["huanhuan"]},
                        "metadata": {"type": "string", "description": "A JSON object of strings."},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
OUTCOMES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": DatasetOut, "description": "The version that was there"},
    202: {"model": DatasetOut, "description": "Still being checked"},
}
REFUSALS: Final = (
    MalformedForm,
    WrongContentType,
    InvalidDataset,
    InvalidUpload,
    InvalidDatasetName,
    ChecksumMismatch,
    DatasetTooLarge,
    TooManyUploads,
    KeyReused,
    KeyInFlight,
)


@router.post(
    "",
    status_code=201,
    summary="Upload a data set",
    response_model=DatasetOut,
    openapi_extra=BODY,
    responses=OUTCOMES | problems(*REFUSALS),
)
async def create(incoming: IncomingDep, key: Key, caller: Writes, rt: RuntimeDep) -> Response:
    """Upload one file of rows; format, container and compression are recognised by content, and named in the summary.

    Rows are Alpaca's `instruction`/`input`/`output` (with `system` and `history`), BlueLM's `inputs`/`targets`, OpenAI's
    `messages`, ShareGPT's `conversations`, or `prompt`/`completion`. They come as JSON lines, a JSON array, CSV, TSV or
    Parquet, each also packed with gzip or Zstandard.

    Send a form (`curl -F file=@train.jsonl -F name=huanhuan`) or the bytes themselves with `?name=`. The file is stored,
    hashed and checked while it arrives: 201 with the summary, or 422 with the faults by line that were found within 1.5 s
    of the first, and nothing stored. The same name and bytes again give the version that is there (200); new bytes make
    `name@N+1`. A file too large to check in time is 202 and `processing`: watch `Location`.
    """
    settings = rt.settings
    with rt.uploads.taken():
        registered = await datasets.receive(
            incoming.chunks,
            upload=incoming.upload,
            caller=caller,
            key=key,
            store=rt.store,
            database=rt.database,
            limits=UploadLimits(bytes=settings.max_upload_bytes, validation_wait_s=settings.validation_wait_s),
            show=_shown,
        )
    return created(registered.answer, location=f"/datasets/{registered.dataset.id}", replayed=registered.replayed)


@router.get("", summary="List data sets", responses=problems(UnknownCursor, InvalidFilter))
def listing(filters: FiltersDep, caller: Reads, rt: RuntimeDep) -> ListOut[DatasetOut]:
    """List your project's data sets, newest first."""
    return listed(DatasetOut, datasets.listing(caller, filters, rt.database))


@router.get("/{dataset}", summary="One data set", responses=problems(DatasetNotFound))
def get(dataset: Id, caller: Reads, rt: RuntimeDep) -> DatasetOut:
    """Find a data set by its id, its name (the newest version), or `name@N`."""
    return DatasetOut.of(datasets.resolve(dataset, project_id=caller.project_id, database=rt.database))


@router.get(
    "/{dataset}/rows",
    summary="Rows of a data set",
    responses=problems(
        DatasetNotFound,
        DatasetNotReady,
        InvalidDataset,
        UnknownCursor,
        PageTooDeep,
        TooManyTurns,
        TooManyPages,
        PageFailed,
        BaseNotFound,
        BaseUnusable,
    ),
)
def rows(
    dataset: Id,
    caller: Reads,
    rt: RuntimeDep,
    *,
    after: Annotated[
        str | None, Query(max_length=100, description="The id of the last row seen, or its number.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Rows a page.")] = 20,
    rendered: Annotated[bool, Query(description="Show tokens too, as a base is trained on them.")] = False,
    base_model: Annotated[
        str | None, Query(max_length=200, description="The base; default the configured one.")
    ] = None,
    system_prompt: Annotated[str | None, Query(max_length=8192, description="As in a job.")] = None,
) -> ListOut[RowOut]:
    """Page through the rows as they were parsed, in the order of the file: turns with roles, texts and weights.

    A page ends early if its rows are long. In plain JSONL any page is found at once by the `id` of the row before it;
    Parquet from the row group that holds it; other files, and bare row numbers, from the start, for five seconds at most.
    """
    page = excerpts.page(
        dataset, after=after, limit=limit, caller=caller, pagers=rt.pagers, store=rt.store, database=rt.database
    )
    if rendered:
        page = excerpts.rendered(
            page,
            base_model=base_model,
            default=rt.policy.default_base,
            system=system_prompt,
            renderers=rt.renderers,
            database=rt.database,
        )
    return listed(RowOut, page)


@router.delete("/{dataset}", summary="Delete a data set", responses=problems(DatasetNotFound, DatasetInUse))
def delete(dataset: Id, caller: Writes, rt: RuntimeDep) -> DeletedOut:
    """Delete a data set; its bytes go, its id and hash stay. A job that has not ended keeps it."""
    datasets.delete(dataset, caller=caller, store=rt.store, database=rt.database)
    return DeletedOut(id=dataset, object="dataset")


def _shown(dataset: Dataset) -> str:
    return DatasetOut.of(dataset).model_dump_json()
