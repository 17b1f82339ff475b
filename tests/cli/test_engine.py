"""`bluelora engine vllm`: the command that it becomes, seen by a program that takes vLLM's place on the PATH."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cli.places import ROOT
from core.runtime import build
from core.settings import Settings
from tests.support import compose, registry
from tests.support.databases import SqliteDatabases

PROGRAM = """#!{python}
import json, os, sys
wanted = ("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "VLLM_API_KEY", "VLLM_NO_USAGE_STATS", "HF_HUB_OFFLINE")
print(json.dumps({{"arguments": sys.argv[1:], "environment": {{name: os.environ.get(name) for name in wanted}}}}))
"""


@pytest.fixture
def data_dir(sqlite_databases: SqliteDatabases, tmp_path: Path) -> Path:
    """A data directory whose only base is called `plain`; a program called `vllm` lies beside it."""
    sqlite_databases.copy(tmp_path)
    with build(Settings(data_dir=tmp_path)) as runtime:
        registry.base(runtime, name="plain")
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    return tmp_path


def _run(data_dir: Path, *options: str, path: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", "engine", "vllm", "--data-dir", str(data_dir), *options]
    found = path if path is not None else f"{data_dir / 'bin'}:{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("BLUELORA_", "VLLM_"))}
    return subprocess.run(
        command, cwd=ROOT, env=environment | {"PATH": found} | variables, capture_output=True, text=True, check=False
    )


def _became(data_dir: Path, *options: str, **variables: str) -> Mapping[str, Any]:
    done = _run(data_dir, *options, **variables)
    assert done.returncode == 0, done.stderr
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def test_vllm_serves_the_base_under_its_name_with_the_flags_of_the_compose_file(data_dir: Path) -> None:
    became = _became(data_dir)
    arguments = became["arguments"]
    assert arguments[0] == "serve"
    assert list(Path(arguments[1]).parent.parts[-2:]) == ["cache", "bases"]
    composed = compose.load({"POSTGRES_PASSWORD": "a", "VALKEY_PASSWORD": "b", "BLUELORA_BASE": "plain"})
    words = shlex.split(composed.services["vllm"].command[0])
    ours, theirs = arguments[2:], words[words.index("serve") + 2 :]
    for options, host in ((ours, "127.0.0.1"), (theirs, "0.0.0.0")):
        assert options[options.index("--host") + 1] == host
        options.remove(host)
    assert ours == theirs
    given = composed.services["vllm"].environment
    assert {name: value for name, value in became["environment"].items() if value is not None} == dict(given)


def test_the_key_goes_by_the_environment_and_further_options_come_last(data_dir: Path) -> None:
    (data_dir / "engine.key").write_text("a secret\n")
    became = _became(data_dir, "--api-key-file", str(data_dir / "engine.key"), "--max-loras", "2", "--dtype=float32")
    assert became["environment"]["VLLM_API_KEY"] == "a secret"
    assert "a secret" not in became["arguments"]
    assert became["arguments"][-3:] == ["--max-loras", "2", "--dtype=float32"]


@pytest.mark.parametrize(("rank", "given"), [("24", "32"), ("512", "512")])
def test_the_rank_is_the_next_that_vllm_takes(data_dir: Path, rank: str, given: str) -> None:
    arguments = _became(data_dir, BLUELORA_MAX_LORA_RANK=rank)["arguments"]
    assert arguments[arguments.index("--max-lora-rank") + 1] == given


def test_what_vllm_can_not_do_is_said_before_it_is_started(data_dir: Path) -> None:
    large = _run(data_dir, BLUELORA_MAX_LORA_RANK="513")
    assert (large.returncode, large.stdout) == (3, "")
    assert "512" in large.stderr
    keyless = _run(data_dir, "--api-key-file", str(data_dir / "none.key"))
    assert (keyless.returncode, keyless.stdout) == (3, "")
    assert "none.key" in keyless.stderr
    absent = _run(data_dir, path="/nowhere")
    assert (absent.returncode, absent.stdout) == (3, "")
    assert "not installed" in absent.stderr
