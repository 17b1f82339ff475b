"""A LoRA taught on a literal BlueLM imports over HTTP and answers, token for token, as it did there."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from api import main
from core.ml.convert import convert
from core.text.chat import Renderer
from tests.support import bluelm, elsewhere, engines, loras
from tests.support.answering import Answering, answering
from tests.support.databases import SqliteDatabases
from tests.support.elsewhere import NEW_TOKENS, Elsewhere
from tests.support.oracle import BlueLM
from tests.support.problems import problem

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

SHAPE = bluelm.Shape(hidden=48, heads=4)
TAUGHT = {"你是谁？": "我是一个语言模型", "hello": "很高兴认识你", "吃饭了吗？": "还没有"}
ASKED = (*TAUGHT, "今天天气很好", "the quick brown fox", "北京")


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = bluelm.write(tmp_path_factory.mktemp("there") / "source", shape=SHAPE, dtype=torch.float32)
    target = source.parent / "base"
    return convert(source, target, name="tiny", progress=lambda done, total: None).path


@pytest.fixture(scope="module")
def here(
    base_dir: Path, sqlite_databases: SqliteDatabases, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Answering]:
    folder = tmp_path_factory.mktemp("here")
    sqlite_databases.copy(folder)
    with pytest.MonkeyPatch.context() as often:
        often.setattr(main, "SWEEP_EVERY_S", 0.3)
        yield from _serve(folder, base_dir)


def _serve(folder: Path, base_dir: Path) -> Iterator[Answering]:
    with answering(folder, base_dir=base_dir, engine_api_key_file=base_dir.parent / "engine.key") as running:
        yield running


@pytest.fixture(scope="module")
def renderer(base_dir: Path) -> Renderer:
    return Renderer.load(base_dir)


@pytest.fixture(scope="module")
def taught(base_dir: Path, renderer: Renderer) -> Elsewhere:
    config: dict[str, Any] = json.loads((base_dir.parent / "source" / "config.json").read_text())
    weights = bluelm.tensors(SHAPE, rows=config["vocab_size"], dtype=torch.float32)
    model = BlueLM(weights=weights, heads=SHAPE.heads, eps=config["rms_norm_eps"])
    return elsewhere.teach(model, TAUGHT, renderer, epochs=25)


@pytest.fixture(scope="module")
def client(here: Answering) -> Iterator[httpx.Client]:
    with here.live.client(here.live.key("member", project="elsewhere")) as opened:
        yield opened


@pytest.fixture(scope="module")
def imported(client: httpx.Client, taught: Elsewhere, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = elsewhere.save(tmp_path_factory.mktemp("peft") / "lora", taught)
    answer = loras.send(client, loras.parts(folder), name="taught", base="tiny")
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def test_answers_are_the_oracles_with_the_lora(
    client: httpx.Client, taught: Elsewhere, imported: dict[str, Any], renderer: Renderer
) -> None:
    learnt = 0
    answers = taught.greedy(elsewhere.prompts(renderer, ASKED), renderer)
    for question, ids in zip(ASKED, answers, strict=True):
        body = {"prompt": question, "adapter": "taught", "max_tokens": NEW_TOKENS, "repetition_penalty": 1.0}
        answer = client.post("/generate", json=body).json()
        assert answer["choices"][0]["message"]["content"] == elsewhere.text_of(renderer, ids)
        assert answer["adapter"]["sha256"] == imported["sha256"]
        learnt += elsewhere.text_of(renderer, ids) == TAUGHT.get(question)
    assert learnt >= 2


def test_plain_peft_answers_the_same_with_the_downloaded_files(
    client: httpx.Client,
    taught: Elsewhere,
    imported: dict[str, Any],
    renderer: Renderer,
    base_dir: Path,
    tmp_path: Path,
) -> None:
    for file in imported["files"]:
        found = client.get(f"/adapters/{imported['id']}/files/{file['name']}")
        (tmp_path / file["name"]).write_bytes(found.content)
    prompts = elsewhere.prompts(renderer, ASKED)
    answers = elsewhere.answers_of_plain_peft(base_dir, tmp_path, prompts, renderer)
    assert answers == taught.greedy(prompts, renderer)


def test_a_deleted_adapter_leaves_the_engine_and_its_folder(
    here: Answering, client: httpx.Client, taught: Elsewhere, tmp_path: Path
) -> None:
    parts = loras.parts(elsewhere.save(tmp_path / "lora", taught))
    gone, kept = (loras.send(client, parts, name=name).json()["id"] for name in ("gone", "kept"))
    for adapter in (gone, kept):
        client.post("/generate", json={"prompt": "hello", "adapter": adapter, "max_tokens": 1}).raise_for_status()
    folders = here.live.runtime.settings.adapters_dir()

    def loaded() -> set[str]:
        cards = httpx.get(f"{here.engine.url}/v1/models", headers=here.engine.headers, trust_env=False).json()["data"]
        return {card["id"] for card in cards}

    assert {gone, kept} <= loaded()
    client.delete(f"/adapters/{gone}").raise_for_status()
    deadline = time.monotonic() + 30
    while gone in loaded() or list(folders.glob(f"{gone}-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert kept in loaded()
    assert list(folders.glob(f"{kept}-*"))
    again = client.post("/generate", json={"prompt": "hello", "adapter": gone})
    assert (again.status_code, again.json()["code"]) == (404, "adapter_not_found")


def test_an_adapter_without_finite_logits_is_named_and_not_to_be_asked_again(
    client: httpx.Client, base_dir: Path, tmp_path: Path
) -> None:
    folder = engines.overflowing(tmp_path / "wild", base_dir)
    loras.send(client, loras.parts(folder), name="wild", base="tiny").raise_for_status()
    native = {"prompt": "hello", "adapter": "wild", "max_tokens": 2}
    chat = {"model": "wild", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
    for path, body in (("/generate", native), ("/v1/chat/completions", chat)):
        for stream in (False, True):
            refused = client.post(path, json=body | {"stream": stream})
            assert "wild@1" in problem(refused, status=409, code="logits_not_finite")["detail"]
            assert refused.headers["x-should-retry"] == "false"
    client.post("/generate", json={"prompt": "hello", "max_tokens": 2}).raise_for_status()
