"""What the framework finds wrong, said in our words: validation, unknown routes, torn requests.

Knows the table of api/problems.py and pydantic's names of faults; no noun.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from api import problems
from core import errors

MAX_FINDINGS: Final = 100
# How pydantic names a fault, and how we do.
CODES: Final[Mapping[str, str]] = {
    "missing": "missing_field",
    "literal_error": "unknown_value",
    "enum": "unknown_value",
    "extra_forbidden": "unknown_parameter",
    "value_error": "invalid_value",
    "string_pattern_mismatch": "invalid_value",
} | dict.fromkeys(
    (
        "finite_number",
        "greater_than",
        "greater_than_equal",
        "int_parsing_size",
        "less_than",
        "less_than_equal",
        "too_long",
        "too_short",
        "string_too_long",
        "string_too_short",
    ),
    "out_of_range",
)


def install(app: FastAPI) -> None:
    """Render every error of `app` as a problem, its own and the framework's."""
    app.add_exception_handler(errors.Problem, _answer_problem)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)


async def _answer_nobody(request: Request, _error: Exception) -> JSONResponse:
    gone = problems.lay_out(
        status=400,
        code="client_closed_request",
        title="Client closed request",
        detail="The client left before its body was complete.",
        instance=request.scope["path"],
    )
    return problems.respond(gone)


async def _answer_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.Problem)  # noqa: S101  (as registered)
    return problems.answer(error, instance=request.scope["path"])


async def _answer_validation(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101  (as registered)
    faults: Sequence[Mapping[str, Any]] = error.errors()
    broken = next((fault for fault in faults if fault["type"] == "json_invalid"), None)
    if broken is not None:
        return problems.respond(_malformed(broken, instance=request.scope["path"]))
    return problems.respond(_invalid(faults, instance=request.scope["path"]))


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101  (as registered)
    status, path = error.status_code, request.scope["path"]
    phrase = HTTPStatus(status).phrase
    code, detail = phrase.lower().replace(" ", "_"), str(error.detail)
    if status == HTTPStatus.NOT_FOUND:
        code, detail = "route_not_found", f"There is no route {path[:200]!r}; /docs lists them."
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        detail = f"{request.method[:20]!r} is not served here; allowed: {allowed}."
    body = problems.lay_out(status=status, code=code, title=phrase, detail=detail, instance=path)
    return problems.respond(body, headers=error.headers)


def _malformed(fault: Mapping[str, Any], *, instance: str) -> problems.ProblemOut:
    detail = f"The body is not JSON: {fault['ctx']['error']} (character {fault['loc'][-1]})."
    return problems.lay_out(status=400, code="malformed_json", title="Malformed JSON", detail=detail, instance=instance)


def _invalid(faults: Sequence[Mapping[str, Any]], *, instance: str) -> problems.ProblemOut:
    findings = [_finding(fault) for fault in faults[:MAX_FINDINGS]]
    first = findings[0]
    return problems.lay_out(
        status=400 if problems.is_openai(instance) else 422,
        code=first.code,
        title="Invalid request",
        detail=f"{first.field}: {first.message}." if first.field else f"{first.message}.",
        instance=instance,
        param=first.field,
        findings=findings,
    )


def _finding(fault: Mapping[str, Any]) -> errors.Finding:
    kind, context = fault["type"], fault.get("ctx") or {}
    path = [str(part) for part in fault["loc"][1:]]
    if "name" in context:  # faults of whole objects (core/domain/written.py) say which member
        path.append(context["name"])
    code = CODES.get(kind, "wrong_type" if kind.endswith(("_type", "_parsing", "_from_float")) else kind)
    message = str(fault["msg"]).removeprefix("Value error, ").rstrip(".")
    hint = f"Allowed: {context['expected']}." if "expected" in context else context.get("hint")
    return errors.Finding(code=code, field=".".join(path) or None, message=message, hint=hint)
