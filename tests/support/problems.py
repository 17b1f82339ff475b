"""What every error's answer must look like."""

import re
from typing import Any
from urllib.parse import unquote

import httpx

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


def problem(answer: httpx.Response, *, status: int, code: str) -> dict[str, Any]:
    """Hold an answer against the one error body, RFC 9457 and OpenAI's, and give it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-request-id"]
    body: dict[str, Any] = answer.json()
    assert set(body) == {"type", "title", "status", "detail", "instance", "code", "errors", "error"}
    assert body["code"] == code, body
    assert body["type"] == f"/problems/{code}"
    assert body["status"] == status
    assert unquote(body["instance"]) == answer.request.url.path
    assert body["title"]
    assert body["detail"]
    expected = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] == body["detail"]
    assert body["error"]["type"] == expected
    assert body["error"]["code"] == code
    for finding in body["errors"]:
        assert set(finding) == {"line", "field", "code", "message", "hint"}
    if status in {409, 429} or status >= 500:
        cures = "retry-after" in answer.headers
        assert answer.headers["x-should-retry"] == ("true" if cures else "false")
    for leak in ("Traceback", "site-packages", "/tmp/", "sqlite"):
        assert leak not in answer.text
    assert not re.search(r"bl_[0-9A-Za-z]", answer.text)
    return body
