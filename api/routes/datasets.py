"""Data sets: upload, look, delete."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Response

from api.bodies import MalformedForm, WrongContentType
from api.dependencies import FiltersDep, Id, Key, Reads, RuntimeDep, Writes
from api.problems import problems
from api.routes.uploads import Incoming, incoming
from api.schemas.adapters import DeletedOut
from api.schemas.datasets import DatasetOut
from api.schemas.lists import ListOut, listed
from core.domain.datasets import DatasetInUse, DatasetNotFound, DatasetTooLarge, InvalidDataset
from core.domain.pages import InvalidFilter, UnknownCursor
from core.services import datasets
from core.services.uploads import UploadLimits

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
