"""Every kind of error has a status and one shape, the framework's and our own bugs included."""

import asyncio
import importlib
import json
import logging
import pkgutil
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

import api
import core
from api import faults
from api.meters import Meters
from api.middleware import Exchange
from api.problems import STATUS, answer, status_of
from core import errors
from tests.support.live import Live
from tests.support.problems import problem

GPU_ROOMS = ("core.ml",)


def _all(kind: type[errors.Problem]) -> Iterator[type[errors.Problem]]:
    for child in kind.__subclasses__():
        yield child
        yield from _all(child)


def _import_everything() -> None:
    for package in (api, core):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.startswith(GPU_ROOMS) and not module.name.endswith("__main__"):
                importlib.import_module(module.name)


def test_every_error_is_of_a_kind_and_has_a_code_of_its_own() -> None:
    _import_everything()
    concrete = [kind for kind in _all(errors.Problem) if kind not in STATUS and not kind.__module__.startswith("tests")]
    assert len(concrete) > 40
    for kind in concrete:
        assert 400 <= status_of(kind, openai=False) <= 507
        assert kind.code.isascii()
        assert kind.code == kind.code.lower()
    kinds = set(STATUS)
    assert kinds == set(errors.Problem.__subclasses__())


def test_what_is_invalid_is_422_natively_and_400_for_openais_clients() -> None:
    assert status_of(errors.Invalid, openai=False) == 422
    assert status_of(errors.Invalid, openai=True) == 400
    assert status_of(errors.Malformed, openai=False) == status_of(errors.Malformed, openai=True) == 400


@pytest.mark.parametrize(
    ("kind", "retry_after_s", "retried"),
    [
        (errors.Overloaded, 1.2, "true"),
        (errors.Overloaded, None, "false"),
        (errors.Unavailable, 0.1, "true"),
        (errors.Conflict, None, "false"),
        (errors.StorageFull, None, "false"),
        (errors.NotFound, None, None),
    ],
)
def test_clients_are_told_whether_to_try_again(
    kind: type[errors.Problem], retry_after_s: float | None, retried: str | None
) -> None:
    response = answer(kind("It is so.", retry_after_s=retry_after_s), instance="/jobs")
    assert response.headers.get("x-should-retry") == retried
    if retry_after_s is not None:
        assert int(response.headers["retry-after"]) >= retry_after_s


def test_unknown_routes_and_methods_are_problems_too(live: Live) -> None:
    with live.client() as client:
        problem(client.get("/nothing"), status=404, code="route_not_found")
        problem(client.get("/jobs/plan/x"), status=404, code="route_not_found")
        problem(client.post("/jobs/job_1/pause"), status=404, code="route_not_found")
        answered = client.put("/jobs")
        problem(answered, status=405, code="method_not_allowed")
        assert answered.headers["allow"]
        problem(client.get("/docs/secret.txt"), status=422, code="unknown_value")


def test_a_bug_is_logged_under_the_requests_id_and_answered_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()

    @app.get("/broken")
    def broken() -> None:
        raise ZeroDivisionError("a secret in /etc/passwd")

    faults.install(app)
    app.add_middleware(Exchange, meters=Meters())

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get("/broken", headers={"x-request-id": "mine-1"})

    with caplog.at_level(logging.INFO):
        answered = asyncio.run(ask())
    body = problem(answered, status=500, code="internal_error")
    assert "secret" not in json.dumps(body)
    assert answered.headers["x-request-id"] == "mine-1"
    logged = next(record for record in caplog.records if record.name == "api.middleware")
    assert vars(logged)["request_id"] == "mine-1"
    assert logged.exc_info is not None
    line = next(record for record in caplog.records if record.name == "api.access")
    assert (vars(line)["status"], vars(line)["path"]) == (500, "/broken")


@pytest.mark.parametrize("given", ["", "a b", "x" * 200, "<script>"])
def test_a_request_id_that_could_forge_a_line_is_replaced(live: Live, given: str) -> None:
    with live.client() as client:
        answered = client.get("/healthz", headers={"x-request-id": given})
        assert answered.headers["x-request-id"].startswith("req_")
        assert client.get("/healthz", headers={"x-request-id": "trace-7"}).headers["x-request-id"] == "trace-7"
