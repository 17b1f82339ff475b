"""The registry over HTTP: references, files, aliases, deletion."""

import hashlib
import json
from pathlib import Path

import httpx
import pytest

from tests.support import registry
from tests.support.live import Live
from tests.support.problems import problem


@pytest.fixture
def versions(live: Live, client: httpx.Client, tmp_path: Path) -> list[str]:
    """The ids of two versions of `persona`."""
    return [registry.adapter(live.runtime, client, tmp_path, name="persona").id for _ in range(2)]


def test_every_reference_finds_its_adapter(client: httpx.Client, versions: list[str]) -> None:
    newest = client.get("/adapters/persona").json()
    assert newest["id"] == versions[1]
    assert (newest["kind"], newest["version"], newest["reference"]) == ("final", 2, "persona@2")
    assert newest["manifest"]["step"] == 3
    assert {file["name"] for file in newest["files"]} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
    }
    for reference in (versions[1], "persona@2", f"{newest['job']}@latest", f"{newest['job']}@step-3"):
        assert client.get(f"/adapters/{reference}").json() == newest
    assert client.get("/adapters/persona@1").json()["id"] == versions[0]
    listed = client.get("/adapters", params={"name": "persona"}).json()["data"]
    assert [one["id"] for one in listed] == versions[::-1]
    assert client.get("/adapters", params={"status": "checkpoint"}).json()["data"] == []


def test_files_come_byte_for_byte(client: httpx.Client, versions: list[str]) -> None:
    adapter = client.get(f"/adapters/{versions[0]}").json()
    for file in adapter["files"]:
        answer = client.get(f"/adapters/{versions[0]}/files/{file['name']}")
        assert answer.status_code == 200
        assert answer.headers["etag"] == f'"{file["sha256"]}"'
        assert int(answer.headers["content-length"]) == file["bytes"] == len(answer.content)
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
    manifest = client.get(f"/adapters/{versions[0]}/files/manifest.json")
    assert manifest.json() == adapter["manifest"]
    assert hashlib.sha256(manifest.content).hexdigest() == adapter["sha256"]
    for name in ("nothing", "..%2Fmanifest.json", "%2Fetc%2Fpasswd"):
        answer = client.get(f"/adapters/{versions[0]}/files/{name}")
        assert answer.status_code == 404


def test_an_alias_moves_and_protects_what_it_points_at(client: httpx.Client, versions: list[str]) -> None:
    moved = client.put("/adapters/persona/aliases/prod", json={"version": 1})
    assert moved.status_code == 200, moved.text
    assert moved.json()["aliases"] == ["prod"]
    assert client.get("/adapters/persona@prod").json()["id"] == versions[0]
    body = problem(client.delete("/adapters/persona@1"), status=409, code="adapter_in_use")
    assert "persona@prod" in body["detail"]
    client.put("/adapters/persona/aliases/prod", json={"version": 2}).raise_for_status()
    assert client.get("/adapters/persona@prod").json()["id"] == versions[1]
    assert client.delete("/adapters/persona@1").json() == {"id": versions[0], "object": "adapter", "deleted": True}
    assert client.delete("/adapters/persona/aliases/prod").json()["deleted"] is True
    problem(client.get("/adapters/persona@prod"), status=404, code="adapter_not_found")
    problem(client.delete("/adapters/persona/aliases/prod"), status=404, code="adapter_not_found")


def test_a_deleted_version_is_gone_and_its_number_never_comes_again(
    live: Live, client: httpx.Client, versions: list[str], tmp_path: Path
) -> None:
    problem(client.delete("/adapters/persona"), status=422, code="invalid_reference")
    client.delete("/adapters/persona@2").raise_for_status()
    problem(client.delete("/adapters/persona@2"), status=404, code="adapter_not_found")
    for reference in ("persona@2", versions[1]):
        problem(client.get(f"/adapters/{reference}"), status=404, code="adapter_not_found")
        problem(
            client.post("/generate", json={"adapter": reference, "prompt": "x"}), status=404, code="adapter_not_found"
        )
    assert client.get("/adapters/persona").json()["version"] == 1
    again = tmp_path / "again"
    again.mkdir()
    assert registry.adapter(live.runtime, client, again, name="persona").version == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/adapters/persona/aliases/latest", {"version": 1}, 422, "invalid_reference"),
        ("/adapters/persona/aliases/7", {"version": 1}, 422, "invalid_reference"),
        ("/adapters/persona/aliases/Prod", {"version": 1}, 422, "invalid_reference"),
        ("/adapters/persona/aliases/prod", {"version": 9}, 404, "adapter_not_found"),
        ("/adapters/persona/aliases/prod", {"version": 0}, 422, "out_of_range"),
        ("/adapters/persona/aliases/prod", {"version": "1"}, 422, "wrong_type"),
        ("/adapters/persona/aliases/prod", {"adapter": "persona@1"}, 422, "unknown_parameter"),
        ("/adapters/persona/aliases/prod", {}, 422, "missing_field"),
    ],
)
def test_an_alias_that_cannot_be_is_refused(
    client: httpx.Client, versions: list[str], path: str, body: dict[str, object], status: int, code: str
) -> None:
    problem(client.put(path, json=body), status=status, code=code)


@pytest.mark.parametrize("reference", ["A B", "..", "x@y@z", "persona@", "@1", "ad_", "job_1@latest", "%00"])
def test_a_text_that_is_no_reference_is_refused(client: httpx.Client, reference: str) -> None:
    answer = client.get(f"/adapters/{reference}")
    assert answer.status_code in {400, 404, 422}
    problem(answer, status=answer.status_code, code=answer.json()["code"])


def test_models_list_bases_and_own_adapters(client: httpx.Client, versions: list[str], project: str) -> None:
    models = {model["id"]: model for model in client.get("/v1/models").json()["data"]}
    assert models["plain"]["parent"] is None
    assert models["persona@2"] | {"created": 0} == {
        "id": "persona@2",
        "object": "model",
        "created": 0,
        "owned_by": project,
        "root": "plain",
        "parent": "plain",
    }
    for name in ("persona", versions[1], f"ft:plain:{project}:persona", f"ft:plain:{project}:persona:2"):
        assert client.get(f"/v1/models/{name}").json()["id"] == "persona@2"
    assert client.get("/v1/models/plain").json()["id"] == "plain"
    problem(client.get(f"/v1/models/ft:other:{project}:persona"), status=404, code="model_not_found")


def test_bases_are_found_by_id_and_name(client: httpx.Client) -> None:
    (base,) = [one for one in client.get("/bases").json()["data"] if one["name"] == "plain"]
    for name in ("plain", base["id"]):
        assert client.get(f"/bases/{name}").json() == base
    assert json.dumps(base["files"]) == "[]"
    problem(client.get("/bases/nothing"), status=404, code="base_not_found")
    problem(client.get("/bases?status=ready"), status=422, code="invalid_filter")


def test_a_file_whose_bytes_are_lost_is_an_error_and_not_torn(
    client: httpx.Client, live: Live, versions: list[str]
) -> None:
    files = client.get(f"/adapters/{versions[0]}").json()["files"]
    lost = next(file for file in files if file["name"] == "adapter_config.json")
    live.runtime.store.delete(f"sha256/{lost['sha256']}")
    problem(client.get(f"/adapters/{versions[0]}/files/{lost['name']}"), status=503, code="object_missing")
