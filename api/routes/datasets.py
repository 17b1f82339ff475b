"""Data sets: upload, look, delete."""

from typing import Any, Final

from fastapi import APIRouter, Response

from api.bodies import MalformedForm, WrongContentType
from api.dependencies import FiltersDep, Id, Key, Reads, RuntimeDep, Writes
from api.problems import problems
from api.routes.created import created
from api.routes.uploads import IncomingDep, InvalidUpload
from api.schemas.adapters import DeletedOut
from api.schemas.datasets import DatasetOut
from api.schemas.lists import ListOut, listed
from core.domain.datasets import Dataset, DatasetInUse, DatasetNotFound, DatasetTooLarge, InvalidDataset, TooManyUploads
from core.domain.pages import InvalidFilter, UnknownCursor
from core.services import datasets
from core.services.idempotency import KeyInFlight, KeyReused
from core.services.uploads import ChecksumMismatch, InvalidDatasetName, UploadLimits

router: Final = APIRouter(prefix="/datasets", tags=["datasets"])
BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
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
    """Upload one file of rows: a JSON array or JSON lines of `instruction`/`input`/`output`, or of `inputs`/`targets`.

    Send a form (`curl -F file=@train.jsonl -F name=huanhuan`) or the bytes themselves with `?name=`. The file is stored,
    hashed and checked while it arrives: 201 with the summary, or 422 with every fault by line and nothing stored. The
    same name and bytes again give the version that is there (200); new bytes make `name@N+1`. A file too large to check
    in time is 202 and `processing`: watch `Location`.
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


@router.delete("/{dataset}", summary="Delete a data set", responses=problems(DatasetNotFound, DatasetInUse))
def delete(dataset: Id, caller: Writes, rt: RuntimeDep) -> DeletedOut:
    """Delete a data set; its bytes go, its id and hash stay. A job that has not ended keeps it."""
    datasets.delete(dataset, caller=caller, store=rt.store, database=rt.database)
    return DeletedOut(id=dataset, object="dataset")


def _shown(dataset: Dataset) -> str:
    return DatasetOut.of(dataset).model_dump_json()
