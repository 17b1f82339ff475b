"""The contract as a document: committed, complete, and with examples."""

import json
from typing import Any

import httpx
import pytest

from tests.support.live import Live
from tools import openapi


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(openapi.TARGET.read_text(encoding="utf-8"))
    return read


def _operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_the_committed_document_is_the_codes() -> None:
    assert openapi.TARGET.read_text(encoding="utf-8") == openapi.text(), "run `python -m tools.openapi`"


def test_the_service_serves_the_committed_document(live: Live, document: dict[str, Any]) -> None:
    with live.client(None) as nobody:
        assert nobody.get("/openapi.json").json() == document


def test_every_route_is_described_and_every_body_has_an_example(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        assert operation["summary"], name
        assert len(operation["description"]) > 20, name
        for media in operation.get("requestBody", {}).get("content", {}).values():
            has_one = "examples" in media or "example" in media or "format" in str(media["schema"])
            assert has_one, name


def test_every_route_answers_errors_with_the_one_body(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        for status, response in operation["responses"].items():
            if status.startswith("2") or name == "GET /readyz":
                continue
            assert list(response["content"]) == ["application/problem+json"], (name, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    schemas = set(document["components"]["schemas"])
    text = json.dumps(document)
    used = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert used <= schemas
    assert schemas - used <= {"ProblemOut"}


def test_routes_of_later_are_not_there(live: Live) -> None:
    with live.client() as client:
        for method, path in (("POST", "/jobs/x/retry"),):
            answer = client.request(method, path)
            assert answer.status_code in {404, 405}, path
            assert answer.json()["code"] in {"route_not_found", "method_not_allowed"}


def test_the_page_loads_nothing_from_elsewhere(live: Live) -> None:
    with live.client(None) as nobody:
        page = nobody.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        assert "//" not in page.text.replace("<!DOCTYPE html>", "").replace("http://www.w3.org", "")
        script = nobody.get("/docs/swagger-ui-bundle.js")
        assert script.headers["content-type"].startswith("text/javascript")
        assert b'PACKAGE_VERSION:"5.' in script.content
        assert nobody.get("/docs/swagger-ui.css").status_code == 200


def test_the_curl_example_of_an_upload_is_a_form(document: dict[str, Any]) -> None:
    content = document["paths"]["/datasets"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/octet-stream"}


def test_security_is_declared_where_a_key_is_needed(document: dict[str, Any]) -> None:
    for name, operation in _operations(document):
        is_open = name in {"GET /healthz", "GET /readyz", "GET /version"}
        assert ("security" in operation) != is_open, name


def test_an_example_of_each_body_is_accepted_by_its_shape(
    live: Live, document: dict[str, Any], client: httpx.Client
) -> None:
    for name, operation in _operations(document):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            for example in media.get("examples", {}).values():
                method, path = name.split()
                answer = client.request(method, path.format(name="x", alias="prod"), json=example["value"])
                assert answer.status_code not in {400, 415, 422, 500}, (name, answer.text)
