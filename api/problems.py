"""Errors as answers: one table from kind to status, one renderer, RFC 9457's members beside OpenAI's `error`.

Knows no noun: what went wrong is said where it was raised (core/errors.py has the kinds).
"""

import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from fastapi.responses import JSONResponse
from pydantic import BaseModel

from core import errors

MEDIA_TYPE: Final = "application/problem+json"

STATUS: Final[Mapping[type[errors.Problem], int]] = {
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Invalid: 422,
    errors.Malformed: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.TooLarge: 413,
    errors.Unsupported: 415,
    errors.StorageFull: 507,
    errors.Overloaded: 429,
    errors.Unavailable: 503,
}

# What OpenAI's clients read as the error's type; every other 4xx is an invalid request.
ERROR_TYPE: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


class FindingOut(BaseModel):
    """One fault: where (line, field), what, and what would be right."""

    line: int | None = None
    field: str | None = None
    code: str
    message: str
    hint: str | None = None


class OpenAIError(BaseModel):
    """The same problem as OpenAI's clients read it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ProblemOut(BaseModel):
    """Every answer that is not 2xx: RFC 9457, and OpenAI's `error` in the same body."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    errors: list[FindingOut]
    error: OpenAIError


def problems(*kinds: type[errors.Problem], openai: bool = False) -> dict[int | str, dict[str, Any]]:
    """Say in a route's `responses` which problems it answers with, beside those that every route may.

    Args:
        kinds: Concrete errors; grouped by status.
        openai: Whether the route is one of `/v1/*`, where what is invalid answers 400.
    """
    by_status: dict[int | str, list[str]] = {}
    for kind in kinds:
        by_status.setdefault(status_of(kind, openai=openai), []).append(f"`{kind.code}`")
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    named = {status: {"description": ", ".join(codes), "content": content} for status, codes in by_status.items()}
    return named | {"default": {"description": "Any problem", "content": content}}


def status_of(kind: type[errors.Problem], *, openai: bool) -> int:
    """Find the HTTP status of an error's kind; on OpenAI's routes what is invalid is 400, not 422.

    Raises:
        StopIteration: The class is of no kind; a test walks all of them.
    """
    status = next(STATUS[parent] for parent in kind.__mro__ if parent in STATUS)
    return 400 if openai and status == HTTPStatus.UNPROCESSABLE_ENTITY else status


def render(problem: errors.Problem, *, instance: str) -> ProblemOut:
    """Lay out one problem as the body of an answer, or of an event in a stream that has begun."""
    return lay_out(
        status=status_of(type(problem), openai=is_openai(instance)),
        code=problem.code,
        title=problem.title,
        detail=problem.detail,
        instance=instance,
        param=problem.param,
        findings=problem.findings,
    )


def answer(problem: errors.Problem, *, instance: str) -> JSONResponse:
    """Make the whole answer: body, status, and the headers that tell clients whether to retry."""
    body = render(problem, instance=instance)
    headers = {"WWW-Authenticate": 'Bearer realm="bluelora"'} if body.status == HTTPStatus.UNAUTHORIZED else {}
    return respond(body, headers=headers, retry_after_s=problem.retry_after_s)


def internal_error(*, instance: str) -> ProblemOut:
    """Say that the fault is ours; what it was stands in the log, under the request's id."""
    return lay_out(
        status=500,
        code="internal_error",
        title="Internal error",
        detail="The service failed to handle this request; its log has the reason under the x-request-id.",
        instance=instance,
    )


def is_openai(path: str) -> bool:
    """Say whether a path belongs to OpenAI's surface."""
    return path.startswith("/v1/")


def lay_out(
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    instance: str,
    param: str | None = None,
    findings: Iterable[errors.Finding] = (),
) -> ProblemOut:
    """Write the one error body."""
    kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    return ProblemOut(
        type=f"/problems/{code}",
        title=title,
        status=status,
        detail=detail,
        instance=quote(instance, safe="/:@!$&'()*+,;="),
        code=code,
        errors=[FindingOut(line=f.line, field=f.field, code=f.code, message=f.message, hint=f.hint) for f in findings],
        error=OpenAIError(message=detail, type=ERROR_TYPE.get(status, kind), param=param, code=code),
    )


def respond(
    body: ProblemOut, *, headers: Mapping[str, str] | None = None, retry_after_s: float | None = None
) -> JSONResponse:
    """Send one error body, saying by header whether the same request may succeed later.

    OpenAI's clients repeat 409, 429 and 5xx by themselves: where that can't help they are told not to.
    """
    named = dict(headers or {})
    if retry_after_s is not None:
        named |= {"Retry-After": str(max(1, math.ceil(retry_after_s))), "x-should-retry": "true"}
    elif body.status in {HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS} or body.status >= 500:
        named["x-should-retry"] = "false"
    return JSONResponse(body.model_dump(), status_code=body.status, headers=named, media_type=MEDIA_TYPE)
