"""What belongs to another project looks as if it weren't there, on every route and under every name."""

from pathlib import Path

import httpx
import pytest

from core.domain import ids
from tests.support import loras, registry
from tests.support.live import Live
from tests.support.problems import problem


@pytest.fixture
def theirs(live: Live, stranger: httpx.Client, tmp_path: Path) -> dict[str, str]:
    """The ids of one of each thing that a stranger owns."""
    adapter = registry.adapter(live.runtime, stranger, tmp_path, name="secret")
    stranger.put("/adapters/secret/aliases/prod", json={"version": 1}).raise_for_status()
    registry.sized_base(live.runtime, name="sized", sizes=loras.SIZES)
    imported = loras.send(stranger, loras.good(), name="secret-import", base="sized")
    assert imported.status_code == 201, imported.text
    return {
        "imported": imported.json()["id"],
        "dataset": registry.dataset(live.runtime, stranger, name="secret-rows"),
        "job": registry.job(stranger, name="secret-two"),
        "ended": str(adapter.job_id),
        "adapter": adapter.id,
    }


FOREIGN = [
    ("GET", "/datasets/{dataset}", "dataset_not_found"),
    ("GET", "/datasets/secret-rows", "dataset_not_found"),
    ("GET", "/datasets/secret-rows@1", "dataset_not_found"),
    ("GET", "/datasets/{dataset}/rows", "dataset_not_found"),
    ("GET", "/datasets/secret-rows@1/rows", "dataset_not_found"),
    ("DELETE", "/datasets/{dataset}", "dataset_not_found"),
    ("GET", "/jobs/{job}", "job_not_found"),
    ("GET", "/jobs/{job}/events", "job_not_found"),
    ("GET", "/jobs/{job}/metrics", "job_not_found"),
    ("POST", "/jobs/{job}/cancel", "job_not_found"),
    ("POST", "/jobs/{ended}/cancel", "job_not_found"),
    ("GET", "/adapters/{adapter}", "adapter_not_found"),
    ("GET", "/adapters/secret", "adapter_not_found"),
    ("GET", "/adapters/secret@1", "adapter_not_found"),
    ("GET", "/adapters/secret@prod", "adapter_not_found"),
    ("GET", "/adapters/{ended}@latest", "adapter_not_found"),
    ("GET", "/adapters/{adapter}/files/manifest.json", "adapter_not_found"),
    ("DELETE", "/adapters/{adapter}", "adapter_not_found"),
    ("DELETE", "/adapters/secret/aliases/prod", "adapter_not_found"),
    ("PUT", "/adapters/secret/aliases/mine", "adapter_not_found"),
    ("GET", "/adapters/{imported}", "adapter_not_found"),
    ("GET", "/adapters/secret-import@1", "adapter_not_found"),
    ("GET", "/adapters/{imported}/files/adapter_model.safetensors", "adapter_not_found"),
    ("DELETE", "/adapters/{imported}", "adapter_not_found"),
    ("PUT", "/adapters/secret-import/aliases/mine", "adapter_not_found"),
    ("GET", "/v1/models/secret-import", "model_not_found"),
    ("GET", "/v1/models/secret", "model_not_found"),
    ("GET", "/v1/models/{adapter}", "model_not_found"),
]


def test_foreign_things_are_not_found_on_any_route(client: httpx.Client, theirs: dict[str, str]) -> None:
    for method, path, code in FOREIGN:
        body = {"version": 1} if method == "PUT" else None
        found = problem(client.request(method, path.format(**theirs), json=body), status=404, code=code)
        missing = problem(client.request(method, path.format(**_nothing()), json=body), status=404, code=code)
        assert _without_ids(found["detail"]) == _without_ids(missing["detail"])


def test_foreign_adapters_do_not_answer(client: httpx.Client, theirs: dict[str, str]) -> None:
    for reference in (
        theirs["imported"],
        "secret-import",
        theirs["adapter"],
        "secret",
        "secret@1",
        "secret@prod",
        f"{theirs['ended']}@latest",
    ):
        answer = client.post("/generate", json={"adapter": reference, "prompt": "hi"})
        problem(answer, status=404, code="adapter_not_found")
        chat = {"model": reference, "messages": [{"role": "user", "content": "hi"}]}
        problem(client.post("/v1/chat/completions", json=chat), status=404, code="model_not_found")
    spelt = {"model": "ft:plain:default:secret:1", "messages": [{"role": "user", "content": "hi"}]}
    problem(client.post("/v1/chat/completions", json=spelt), status=404, code="model_not_found")


@pytest.mark.parametrize("path", ["/jobs", "/jobs/plan"])
def test_foreign_data_sets_train_nothing(live: Live, client: httpx.Client, theirs: dict[str, str], path: str) -> None:
    registry.dataset(live.runtime, client)
    for field in ("dataset", "validation_dataset"):
        spec = {"dataset": "rows", "name": "mine"} | {field: theirs["dataset"]}
        body = problem(client.post(path, json=spec), status=404, code="dataset_not_found")
        assert body["error"]["param"] == field


def test_lists_and_cursors_show_nothing_foreign(client: httpx.Client, theirs: dict[str, str]) -> None:
    for path in ("/datasets", "/jobs", "/adapters"):
        assert client.get(path).json()["data"] == []
    # A foreign id is a good cursor: it says a time and nothing else.
    assert client.get("/jobs", params={"after": theirs["job"]}).json()["data"] == []
    assert all(model["owned_by"] == "bluelora" for model in client.get("/v1/models").json()["data"])


def test_keys_of_other_projects_cannot_be_revoked(live: Live, project: str) -> None:
    with live.client() as admin, live.client(live.key("admin", project=project)) as own:
        foreign = admin.get("/keys").json()["data"][0]["id"]
        problem(own.delete(f"/keys/{foreign}"), status=404, code="key_not_found")
        assert {key["project"] for key in own.get("/keys").json()["data"]} == {project}


def test_two_projects_may_use_one_idempotency_key_and_one_name(
    client: httpx.Client, stranger: httpx.Client, live: Live, tmp_path: Path
) -> None:
    made = []
    for one in (client, stranger):
        registry.dataset(live.runtime, one)
        answer = one.post("/jobs", json={"dataset": "rows", "name": "same"}, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 202
        assert "idempotency-replayed" not in answer.headers
        made.append(answer.json()["id"])
    assert made[0] != made[1]


def test_an_import_of_the_same_bytes_finds_nothing_foreign(client: httpx.Client, theirs: dict[str, str]) -> None:
    mine = loras.send(client, loras.good(), name="secret-import", base="sized")
    assert (mine.status_code, mine.json()["version"]) == (201, 1)
    assert mine.json()["id"] != theirs["imported"]


def _nothing() -> dict[str, str]:
    return {
        "imported": ids.new("ad"),
        "dataset": ids.new("ds"),
        "job": ids.new("job"),
        "ended": ids.new("job"),
        "adapter": ids.new("ad"),
    }


def _without_ids(text: str) -> list[str]:
    return [word for word in text.split() if "_0" not in word]
