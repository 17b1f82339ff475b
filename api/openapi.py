"""The OpenAPI document: FastAPI's, with the one error body in it. `python -m tools.openapi` writes the committed one."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.problems import ProblemOut

DESCRIPTION = """Fine-tune BlueLM-7B-Chat with LoRA, and serve the result.

Send `Authorization: Bearer bl_…` everywhere but `/healthz`, `/readyz`, `/version`, `/openapi.json` and `/docs`. What goes
wrong is `application/problem+json` with a stable `code`; the same body has OpenAI's `error`. Lists are newest first:
ask for the next page with `after` = the id of the last item. Creates take `Idempotency-Key`. Times are Unix seconds.
Unknown response fields and values of enums may appear at any time: ignore them.
"""


def document(app: FastAPI) -> dict[str, Any]:
    """Write the document once, and give it."""
    if app.openapi_schema is None:
        written = get_openapi(title="BlueLoRA", version="1", description=DESCRIPTION, routes=app.routes)
        _, problem = models_json_schema([(ProblemOut, "serialization")], ref_template="#/components/schemas/{model}")
        written["components"]["schemas"] |= problem["$defs"]
        app.openapi_schema = written
    return app.openapi_schema
