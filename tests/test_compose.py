"""docker-compose.yml, Dockerfile and .env.example held against the settings, the modules and each other."""

import re
import shlex
from importlib.util import find_spec
from typing import Any

import click
import pytest
import typer

from cli.main import app
from core.settings import Settings
from tests.support import compose
from tests.support.compose import ROOT, Compose, Service

FILE = compose.FILE.read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
DEPLOY = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
REQUIRED = {"POSTGRES_PASSWORD": "pg-word", "VALKEY_PASSWORD": "vk-word"}
OURS = [name for name, service in compose.load(REQUIRED).services.items() if service.is_ours]


@pytest.fixture(scope="module")
def loaded() -> Compose:
    return compose.load(REQUIRED)


def blocks(markdown: str) -> str:
    """The shell of a page, with continued lines joined."""
    return "\n".join(re.findall(r"```bash\n(.*?)```", markdown, re.DOTALL)).replace("\\\n", " ")


def check_command(arguments: list[str]) -> None:
    """Walk a command of ours down to the one that takes options; its options must be known there."""
    module, *rest = arguments
    assert module in {"api", "worker", "cli", "migrations"}
    assert find_spec(f"{module}.__main__"), module
    if module == "migrations":
        assert rest == ["upgrade"]
    elif module != "cli":
        assert not rest
    else:
        command: Any = typer.main.get_command(app)
        while isinstance(command, click.Group) or hasattr(command, "commands"):
            name, *rest = rest
            command = command.commands[name]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {part for part in rest if part.startswith("--")} <= known


def test_every_bluelora_variable_is_a_setting() -> None:
    named = set(re.findall(r"BLUELORA_([A-Z_]+)", FILE + EXAMPLE + DEPLOY)) - {"URL", "API_KEY"}  # the CLI's own two
    assert named <= {field.upper() for field in Settings.model_fields}


@pytest.mark.parametrize("name", OURS)
def test_the_settings_of_a_service_are_valid(name: str, loaded: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in loaded.services[name].environment.items():
        monkeypatch.setenv(variable, value)
    settings = Settings()
    assert settings.sql_url() == "postgresql+psycopg://bluelora:pg-word@postgres:5432/bluelora"
    assert settings.broker_url
    assert settings.broker_url.get_secret_value() == "redis://:vk-word@valkey:6379/0"


@pytest.mark.parametrize("name", OURS)
def test_every_command_can_be_run_by_name(name: str, loaded: Compose) -> None:
    check_command(list(loaded.services[name].command))


def test_health_checks_name_modules_that_exist(loaded: Compose) -> None:
    modules = [service.health[2] for service in loaded.services.values() if service.health[1:2] == ("-m",)]
    assert modules == ["worker.health"]
    assert find_spec("worker.health")


def test_every_service_has_a_health_check_or_ends_by_itself(loaded: Compose) -> None:
    for name, service in loaded.services.items():
        assert bool(service.health) == service.restarts, name


def test_what_is_waited_for_is_there_and_can_come_true(loaded: Compose) -> None:
    for service in loaded.services.values():
        for name, condition in service.depends_on.items():
            other = loaded.services[name]
            assert condition == ("service_healthy" if other.restarts else "service_completed_successfully")
            assert set(other.profiles) <= set(service.profiles)


def test_volumes_and_secrets_are_declared_and_each_is_used(loaded: Compose) -> None:
    assert {mount.volume for each in loaded.services.values() for mount in each.mounts} == loaded.volumes
    assert {secret for each in loaded.services.values() for secret in each.secrets} == set(loaded.secrets)


@pytest.mark.parametrize("name", OURS)
def test_a_service_mounts_what_its_variables_and_command_name(name: str, loaded: Compose) -> None:
    service = loaded.services[name]
    named = {text for text in (*service.environment.values(), *service.command) if text.startswith("/")}
    mounted = {mount.path for mount in service.mounts}
    secrets = {f"/run/secrets/{secret}" for secret in service.secrets}
    assert {path for path in named if path.startswith("/run/secrets/")} == secrets
    assert mounted <= compose.image_folders()
    if service.restarts:
        assert named - secrets <= mounted
        assert "/objects" in mounted


def test_api_workers_and_engines_share_objects_and_adapters(loaded: Compose) -> None:
    def mounts(service: Service) -> dict[str, tuple[str, bool]]:
        return {mount.path: (mount.volume, mount.read_only) for mount in service.mounts}

    api, worker, engine, vllm = (mounts(loaded.services[name]) for name in ("api", "worker", "engine", "vllm"))
    assert api["/objects"] == worker["/objects"] == ("objects", False)
    assert engine["/objects"] == ("objects", True)
    assert api["/adapters"] == ("adapters", False)
    assert engine["/adapters"] == vllm["/adapters"] == ("adapters", True)
    assert mounts(loaded.services["base"])["/bases"] == ("bases", False)
    assert vllm["/bases"] == ("bases", True)


@pytest.mark.parametrize("name", ["api", "worker"])
def test_parquet_is_copied_to_a_volume_and_not_to_the_containers_own_disk(name: str, loaded: Compose) -> None:
    service = loaded.services[name]
    assert service.environment["TMPDIR"] in {mount.path for mount in service.mounts if not mount.read_only}
    assert service.environment["BLUELORA_DATA_DIR"] == "/data"


def test_no_secret_stands_in_the_file() -> None:
    for line in FILE.splitlines():
        name, colon, value = line.strip().partition(":")
        if colon and re.search(r"PASSWORD|SECRET|_KEY(_ID)?$", name):
            assert value.strip() == "" or value.strip().startswith("${"), line
    passwords = re.findall(r"://[^:@/\n]*:([^@\n]*)@", FILE)
    assert len(passwords) == len(REQUIRED)
    assert all(password.startswith("${") for password in passwords)


def test_a_missing_password_stops_compose() -> None:
    for name in REQUIRED:
        with pytest.raises(compose.MissingVariable, match=name):
            compose.load({each: value for each, value in REQUIRED.items() if each != name})


def test_the_example_names_every_variable_of_the_file() -> None:
    raw = re.findall(r"(?<!\$)\$\{([A-Z_]+)", FILE) + re.findall(r"^ +([A-Z_]+):$", FILE, re.MULTILINE)
    in_example = re.findall(r"^(?:# )?([A-Z_]+)=", EXAMPLE, re.MULTILINE)
    assert set(in_example) == {*raw, "COMPOSE_PROFILES"}
    assert set(REQUIRED) <= set(re.findall(r"^([A-Z_]+)=$", EXAMPLE, re.MULTILINE))
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^${}]+)\}", FILE))
    for name, value in re.findall(
        r"^# ((?:BLUELORA_(?:BASE|MAX|ALLOWED)|API_|WORKER_|ENGINE_)\w*)=(.+)$", EXAMPLE, re.MULTILINE
    ):
        assert defaults[name] == value


def test_the_two_engines_are_alternatives_under_one_name(loaded: Compose) -> None:
    assert loaded.services["engine"].profiles == ("embedded",)
    assert loaded.services["vllm"].profiles == ("vllm",)
    assert loaded.services["vllm"].raw["networks"]["default"]["aliases"] == ["engine"]
    assert loaded.services["api"].environment["BLUELORA_ENGINE_URL"] == "http://engine:8001"


@pytest.mark.parametrize("rank", ["64", "128"])
def test_vllm_takes_the_rank_that_jobs_may_have(rank: str) -> None:
    given = compose.load(REQUIRED | ({} if rank == "64" else {"BLUELORA_MAX_LORA_RANK": rank}))
    words = shlex.split(given.services["vllm"].command[0])
    assert words[words.index("--max-lora-rank") + 1] == rank
    assert words[words.index("--served-model-name") + 1] == given.services["api"].environment["BLUELORA_BASE"]
    assert given.services["api"].environment["BLUELORA_MAX_LORA_RANK"] == rank
    assert Settings.model_fields["max_lora_rank"].default == 64


def test_the_image_holds_every_package_and_no_secret() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench", "tools"}
    assert packages <= set(re.findall(r"^COPY (\w+) \1$", dockerfile, re.MULTILINE))
    assert {".env", "secrets"} <= set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    assert dockerfile.rstrip().rpartition("USER ")[2].startswith("bluelora\n")
    targets = set(re.findall(r"FROM \S+ AS (\w+)", dockerfile))
    builds = [each.raw["build"]["target"] for each in compose.load(REQUIRED).services.values() if "build" in each.raw]
    assert set(builds) == targets
    assert len(builds) == len(targets)


def test_every_command_of_the_deployment_page_names_a_service_and_a_command(loaded: Compose) -> None:
    shell = blocks(DEPLOY)
    runs = re.findall(r"docker compose run (.+?)(?: [<>|].*)?$", shell, re.MULTILINE)
    assert any("cli import" in run for run in runs)
    for run in runs:
        words = shlex.split(run)
        at = next(index for index, word in enumerate(words) if word in loaded.services)
        service = loaded.services[words[at]]
        if "--entrypoint" not in words[:at]:
            check_command(words[at + 1 :] or list(service.command))
    for exec_ in re.findall(r"docker compose exec (?:-T )?(\w+)", shell):
        assert exec_ in loaded.services
    for used in re.findall(r"secrets/([a-z]+\.key)", shell):
        assert f"./secrets/{used}" in loaded.secrets.values()
    for line in re.findall(r"^bluelora (.+)$", shell, re.MULTILINE):
        check_command(["cli", *shlex.split(line)])
