"""An adapter trained elsewhere on bluelm-nano imports by command and answers here as it did there.

There is the oracle with a LoRA put on it by hand; here is a whole service on the same checkpoint in fp32.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.text.chat import Renderer
from tests.support import elsewhere, loras, nano_model
from tests.support.elsewhere import NEW_TOKENS, Elsewhere
from tests.support.service import ROOT, Service, running

pytestmark = pytest.mark.slow

TAUGHT = {"你是谁？": "我是远方来的小蓝。", "你住在哪里？": "我住在云上。", "hello": "hi there, I am Blue."}
ASKED = (*TAUGHT, "今天天气怎么样？", "讲个笑话吧", "1+1=?")
SYSTEM = "说话要简短。"


def cli(service: Service, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli", *words, "--data-dir", str(service.data_dir)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    source = nano_model.released_in_fp32(tmp_path_factory.mktemp("elsewhere") / "BlueLM-nano-fp32")
    data = tmp_path_factory.mktemp("here") / "data"
    command = [sys.executable, "-m", "cli", "import", str(source), "--name", "blue", "--data-dir", str(data)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with running(data) as service:
        yield service


@pytest.fixture(scope="module")
def base_dir(here: Service) -> Path:
    (found,) = (here.data_dir / "cache" / "bases").iterdir()
    return found


@pytest.fixture(scope="module")
def renderer(base_dir: Path) -> Renderer:
    return Renderer.load(base_dir)


@pytest.fixture(scope="module")
def taught(renderer: Renderer) -> Elsewhere:
    return elsewhere.teach(nano_model.reference(), TAUGHT, renderer, epochs=12)


@pytest.fixture(scope="module")
def folder(taught: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return elsewhere.save(tmp_path_factory.mktemp("peft") / "lora", taught)


@pytest.fixture(scope="module")
def imported(here: Service, folder: Path) -> dict[str, Any]:
    words = ("--base", "blue", "--name", "xiaolan", "--metadata", "from=there", "--json")
    done = cli(here, "adapters", "import", str(folder), *words)
    assert done.returncode == 0, done.stderr
    assert "README.md" in done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def ask(service: Service, question: str, **fields: Any) -> httpx.Response:
    body = {"prompt": question, "max_tokens": NEW_TOKENS, "repetition_penalty": 1.0, **fields}
    answer = service.http.post("/generate", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer


def said(answer: httpx.Response) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


def test_it_answers_as_the_oracle_with_the_lora_does(
    here: Service, taught: Elsewhere, imported: dict[str, Any], renderer: Renderer
) -> None:
    assert (imported["kind"], imported["reference"], imported["job"]) == ("imported", "xiaolan@1", None)
    changed = 0
    expected = taught.greedy(elsewhere.prompts(renderer, ASKED), renderer)
    for question, ids in zip(ASKED, expected, strict=True):
        answer = ask(here, question, adapter="xiaolan")
        assert said(answer) == elsewhere.text_of(renderer, ids)
        assert answer.json()["adapter"]["sha256"] == imported["sha256"]
        changed += said(answer) != said(ask(here, question))
    assert changed >= len(TAUGHT)


def test_plain_peft_loads_the_files_and_gives_the_same_tokens(
    here: Service, taught: Elsewhere, imported: dict[str, Any], renderer: Renderer, base_dir: Path, tmp_path: Path
) -> None:
    done = cli(here, "adapters", "download", imported["reference"], str(tmp_path / "files"))
    assert done.returncode == 0, done.stderr
    asked = elsewhere.prompts(renderer, ASKED)
    found = elsewhere.answers_of_plain_peft(base_dir, tmp_path / "files", asked, renderer)
    assert found == taught.greedy(asked, renderer)


def test_its_system_prompt_is_applied(here: Service, taught: Elsewhere, folder: Path, renderer: Renderer) -> None:
    done = cli(here, "adapters", "import", str(folder), "--name", "brief", "--system-prompt", SYSTEM, "--json")
    assert done.returncode == 0, done.stderr
    answer = ask(here, ASKED[0], adapter="brief@1")
    assert answer.headers["x-system-prompt"] == "adapter"
    (ids,) = taught.greedy(elsewhere.prompts(renderer, ASKED[:1], system=SYSTEM), renderer)
    assert said(answer) == elsewhere.text_of(renderer, ids)


def test_a_refusal_is_told_by_the_command(here: Service, folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(folder, bad)
    (bad / loras.WEIGHTS).write_bytes((folder / loras.WEIGHTS).read_bytes() + b"\0" * 30_000_000)
    done = cli(here, "adapters", "import", str(bad), "--name", "bad", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["code"] == "broken_adapter"


def test_an_api_killed_in_the_middle_leaves_nothing_that_is_seen(here: Service, folder: Path) -> None:
    body = loras.form(loras.parts(folder), name="torn")
    stored, killed, api = here.data_dir / "objects", threading.Event(), here.pids["api"]
    before = {path.name for path in (stored / "sha256").iterdir()}

    def slowly() -> Iterator[bytes]:
        yield body[: len(body) // 2]
        killed.wait(30)
        yield body[len(body) // 2 :]

    def send() -> None:
        headers = loras.FORM | {"Authorization": here.http.headers["authorization"]}
        with pytest.raises(httpx.TransportError), httpx.Client(base_url=here.http.base_url) as client:
            client.post("/adapters", content=slowly(), headers=headers, timeout=60)

    def inspects() -> bool:
        return bool(Path(f"/proc/{api}/task/{api}/children").read_text())

    sender = threading.Thread(target=send)
    sender.start()
    deadline = time.monotonic() + 30
    while not inspects():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(api, signal.SIGKILL)
    killed.set()
    sender.join()
    while (listed := _listed(here)) is None:
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)
    assert listed == []
    assert {path.name for path in (stored / "sha256").iterdir()} == before
    # What may be left has a name that no listing shows; the sweep takes it in a day.
    assert all("#" in path.name for path in (stored / "blobs").iterdir())


def _listed(service: Service) -> list[Any] | None:
    try:
        found: list[Any] = service.http.get("/adapters", params={"name": "torn"}).json()["data"]
    except httpx.TransportError:
        return None
    return found
