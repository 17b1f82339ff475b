"""Whatever is sent, the answer is a success or a typed 4xx: no input is our fault."""

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core.domain.training import TrainSpec
from tests.support import registry
from tests.support.live import Live
from tests.support.problems import problem

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=20)
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _hold(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        problem(answer, status=answer.status_code, code=answer.json()["code"])


@FEW
@given(body=st.dictionaries(st.sampled_from(sorted(TrainSpec.model_fields)), JSON, max_size=4))
def test_no_spec_breaks_the_service(live: Live, client: httpx.Client, body: dict[str, Any]) -> None:
    registry.dataset(live.runtime, client)
    _hold(client.post("/jobs", json={"dataset": "rows", "name": "fuzzed"} | body))


@pytest.mark.usefixtures("tiny")
@FEW
@given(body=st.dictionaries(st.sampled_from(sorted(TrainSpec.model_fields)), JSON, max_size=3))
def test_no_spec_breaks_a_plan(client: httpx.Client, body: dict[str, Any]) -> None:
    client.post("/datasets", params={"name": "rows"}, content=registry.ROWS)
    _hold(client.post("/jobs/plan", json={"dataset": "rows", "name": "fuzzed"} | body | {"base_model": "tiny"}))


@FEW
@given(body=JSON, path=st.sampled_from(["/jobs", "/jobs/plan", "/generate", "/v1/chat/completions", "/keys"]))
def test_no_json_breaks_the_service(client: httpx.Client, body: Any, path: str) -> None:
    _hold(client.post(path, json=body))


@FEW
@given(body=st.binary(max_size=200), path=st.sampled_from(["/jobs", "/jobs/plan", "/generate"]))
def test_no_bytes_break_the_service(client: httpx.Client, body: bytes, path: str) -> None:
    _hold(client.post(path, content=body, headers={"Content-Type": "application/json"}))


@FEW
@given(
    name=st.text(min_size=1, max_size=40), route=st.sampled_from(["jobs", "datasets", "adapters", "bases", "v1/models"])
)
def test_no_name_breaks_the_service(client: httpx.Client, name: str, route: str) -> None:
    quoted = "".join(f"%{byte:02X}" for byte in name.encode("utf-8", "surrogatepass"))
    _hold(client.get(f"/{route}/{quoted}"))
    _hold(client.get(f"/datasets/{quoted}/rows"))


@FEW
@given(after=st.text(max_size=30) | st.from_regex(r"row_[0-9]{1,3}_[0-9]{1,3}_[0-9]{1,4}", fullmatch=True))
def test_no_cursor_breaks_the_rows(client: httpx.Client, after: str) -> None:
    client.post("/datasets", params={"name": "rows"}, content=registry.ROWS)
    _hold(client.get("/datasets/rows/rows", params={"after": after}))


@FEW
@given(
    query=st.dictionaries(st.sampled_from(["after", "name", "status", "limit", "metadata[k]"]), st.text(max_size=30))
)
def test_no_filter_breaks_the_service(client: httpx.Client, query: dict[str, str]) -> None:
    for path in ("/jobs", "/datasets", "/adapters", "/bases"):
        _hold(client.get(path, params=query))


@pytest.mark.parametrize("path", ["/jobs", "/datasets", "/adapters", "/v1/models/x", "/generate"])
def test_a_very_long_name_is_refused(client: httpx.Client, path: str) -> None:
    _hold(client.get(f"{path}/{'x' * 5000}"))
    _hold(client.get(path, params={"name": "x" * 5000}))
