"""The main job as production runs it: the commands and variables of docker-compose.yml, PostgreSQL, Valkey."""

import secrets
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from tests.support import compose
from tests.support.containers import Containers
from tests.support.postgres import Postgres
from tests.support.service import Service

VARIABLES = {
    "POSTGRES_PASSWORD": "what-postgres-asks-for",
    "VALKEY_PASSWORD": "what-valkey-asks-for",
    "BLUELORA_BASE": "bluelm-nano",
}
SHORT_JOB = {"max_steps": 12, "learning_rate": 2e-3, "logging_steps": 4, "save_steps": 6}


@pytest.fixture(scope="module")
def containers(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    """The project before its first start: secrets made, an empty database, nothing running."""
    url = postgres.create_owned("production", password=VARIABLES["POSTGRES_PASSWORD"])
    made = Containers(
        compose=compose.load(VARIABLES),
        folder=tmp_path_factory.mktemp("production"),
        database="@" + url.partition("@")[2],
    )
    for file in made.compose.secrets.values():
        path = made.folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(secrets.token_hex(32) + "\n")  # as `openssl rand -hex 32` writes it
    yield made
    made.kill_all()


def test_processes_refuse_an_empty_database_and_name_the_command(containers: Containers) -> None:
    assert containers.run("api") != 0
    assert "python -m migrations upgrade" in containers.log("api")
    assert containers.run("worker") == 78
    assert "python -m migrations upgrade" in containers.log("worker")
    assert not containers.is_healthy("worker")


def test_the_main_job_runs_on_the_commands_and_variables_of_the_compose_file(containers: Containers) -> None:
    containers.start("valkey")
    assert containers.run("migrate") == 0, containers.log("migrate")
    command = ("cli", "import", "assets/bluelm-nano", "--name", "bluelm-nano")
    assert containers.run("worker", *command) == 0, containers.log("worker")
    started = ("api", "worker", "engine")
    for name in started:
        containers.start(name)
    for name in started:
        containers.until(name, partial(containers.is_healthy, name))
    key = (containers.folder / "secrets" / "admin.key").read_text().strip()
    with httpx.Client(base_url=containers.url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as http:
        service = Service(data_dir=containers.folder, process=containers.running["api"], http=http)
        parts = http.get("/readyz").json()["parts"]
        assert {part["status"] for part in parts} == {"ok"}, parts
        # Celery says so when the broker has let it in: readiness only looks whether something listens there.
        containers.until("worker", lambda: " ready." in containers.log("worker"))
        adapter = _trained(service)
        _check_answers(service, adapter)
    _check_places(containers, adapter)
    for name in reversed(("valkey", *started)):
        assert containers.stop(name) == 0, containers.log(name)


def _trained(service: Service) -> str:
    job = service.ended(service.submit(dataset=service.upload_sample(), name="persona", **SHORT_JOB), seconds=120)
    assert job["status"] == "succeeded", job
    return str(job["adapter"]["id"])


def _check_answers(service: Service, adapter: str) -> None:
    request = {"adapter": adapter, "prompt": "你叫什么名字？", "max_tokens": 16}
    answer = service.http.post("/generate", json=request)
    assert answer.status_code == 200, answer.text
    assert answer.json()["adapter"]["id"] == adapter
    assert answer.json()["usage"]["completion_tokens"] > 0
    assert service.http.post("/generate", json=request, headers={"Authorization": "Bearer none"}).status_code == 401


def _check_places(containers: Containers, adapter: str) -> None:
    """Everything lies where the file says: nothing fell back to a default of the data directory."""
    assert [path.name.partition("-")[0] for path in containers.volume("adapters").iterdir()] == [adapter]
    assert any(containers.volume("objects").glob("sha256/*"))
    for name in ("api-data", "worker-data", "engine-data"):
        files = [path for path in containers.volume(name).rglob("*") if path.is_file()]
        assert not [path for path in files if path.suffix == ".db"]
        assert not (containers.volume(name) / "objects").exists()
    assert not (containers.volume("api-data") / "pepper").exists()
