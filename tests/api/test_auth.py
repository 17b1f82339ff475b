"""Who may do what: every route, every role, and what comes without a key."""

import httpx
import pytest

from tests.support.live import Live
from tests.support.problems import problem

ROLES = ("infer", "read", "member", "admin")
# Every route that needs a key, with the least role. The requests may fail otherwise; only 401 and 403 matter here.
ROUTES = [
    ("POST", "/datasets", "member"),
    ("GET", "/datasets", "read"),
    ("GET", "/datasets/{dataset}", "read"),
    ("GET", "/datasets/{dataset}/rows", "read"),
    ("DELETE", "/datasets/{dataset}", "member"),
    ("POST", "/jobs", "member"),
    ("GET", "/jobs", "read"),
    ("GET", "/jobs/{job}", "read"),
    ("GET", "/jobs/{job}/events", "read"),
    ("GET", "/jobs/{job}/metrics", "read"),
    ("POST", "/jobs/plan", "member"),
    ("POST", "/jobs/{job}/cancel", "member"),
    ("POST", "/adapters", "member"),
    ("GET", "/adapters", "read"),
    ("POST", "/adapters", "member"),
    ("GET", "/adapters/{adapter}", "read"),
    ("DELETE", "/adapters/{adapter}", "member"),
    ("GET", "/adapters/{adapter}/files/{name}", "read"),
    ("PUT", "/adapters/{name}/aliases/{alias}", "member"),
    ("DELETE", "/adapters/{name}/aliases/{alias}", "member"),
    ("GET", "/bases", "read"),
    ("GET", "/bases/{base}", "read"),
    ("POST", "/keys", "admin"),
    ("GET", "/keys", "admin"),
    ("DELETE", "/keys/{key}", "admin"),
    ("POST", "/generate", "infer"),
    ("GET", "/v1/models", "infer"),
    ("GET", "/v1/models/{model}", "infer"),
    ("POST", "/v1/chat/completions", "infer"),
    ("GET", "/metrics", "read"),
    ("GET", "/workers", "read"),
]
OPEN = ["/healthz", "/readyz", "/version", "/openapi.json", "/docs", "/docs/swagger-ui-bundle.js"]


@pytest.fixture(scope="module")
def keys(live: Live) -> dict[str, str]:
    return {role: live.key(role, project="roles") for role in ROLES}


def _ask(client: httpx.Client, method: str, path: str) -> httpx.Response:
    filled = path.replace("{", "").replace("}", "")
    body: dict[str, str] | None = {} if method in {"POST", "PUT"} and path != "/datasets" else None
    return client.request(method, filled, json=body)


def test_the_table_of_routes_is_complete(live: Live) -> None:
    with live.client(None) as nobody:
        paths = nobody.get("/openapi.json").json()["paths"]
    served = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    listed = {(method, path) for method, path, _ in ROUTES} | {("GET", path) for path in OPEN[:3]}
    assert served == listed


@pytest.mark.parametrize(("method", "path", "least"), ROUTES)
def test_each_role_reaches_what_it_may_and_nothing_else(
    live: Live, keys: dict[str, str], method: str, path: str, least: str
) -> None:
    for role in ROLES:
        with live.client(keys[role]) as client:
            answer = _ask(client, method, path)
        if ROLES.index(role) < ROLES.index(least):
            body = problem(answer, status=403, code="role_too_low")
            assert least in body["detail"]
        else:
            assert answer.status_code not in {401, 403, 405, 500}, answer.text


@pytest.mark.parametrize(("method", "path", "least"), ROUTES)
def test_nothing_is_served_without_a_key(live: Live, method: str, path: str, least: str) -> None:
    for key in (None, "bl_" + "0" * 60):
        with live.client(key) as client:
            answer = _ask(client, method, path)
        problem(answer, status=401, code="invalid_api_key")
        assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("path", OPEN)
def test_probes_and_documents_need_no_key(live: Live, path: str) -> None:
    with live.client(None) as nobody:
        assert nobody.get(path).status_code == 200


@pytest.mark.parametrize("header", ["Bearer", "Basic YWRtaW46YWRtaW4=", "bearer  x y", "Token abc"])
def test_other_schemes_are_no_key(live: Live, header: str) -> None:
    with live.client(None) as nobody:
        problem(nobody.get("/jobs", headers={"Authorization": header}), status=401, code="invalid_api_key")


def test_a_revoked_key_ends_with_its_next_request(live: Live, keys: dict[str, str]) -> None:
    with live.client(keys["admin"]) as admin:
        made = admin.post("/keys", json={"name": "short", "role": "read"}).json()
        with live.client(made["secret"]) as reader:
            assert reader.get("/jobs").status_code == 200
            revoked = admin.delete(f"/keys/{made['id']}").json()
            assert revoked["revoked_at"] is not None
            problem(reader.get("/jobs"), status=401, code="invalid_api_key")
        again = admin.delete(f"/keys/{made['id']}")
        assert again.status_code == 200
        assert again.json()["revoked_at"] == revoked["revoked_at"]


def test_a_secret_is_shown_once(live: Live, keys: dict[str, str]) -> None:
    with live.client(keys["admin"]) as admin:
        made = admin.post("/keys", json={"name": "once", "role": "infer"})
        assert made.status_code == 201
        listed = admin.get("/keys").text
    assert made.json()["secret"] not in listed
    assert made.json()["id"] in listed
    assert '"hash"' not in listed


def test_only_the_default_project_makes_keys_of_others(live: Live, keys: dict[str, str]) -> None:
    with live.client(keys["admin"]) as admin:
        answer = admin.post("/keys", json={"name": "x", "role": "read", "project": "default"})
    problem(answer, status=403, code="role_too_low")
