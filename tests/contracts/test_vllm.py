"""vLLM's greedy answers are plain transformers' own, in float32, for the imported base and an adapter trained here."""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.domain.datasets import Turn
from core.text.chat import Renderer
from tests.support import engines, training
from tests.support.commanded import NAME, ROWS, Nano, Restartable, plain_vllm
from tests.support.service import ASSETS
from worker.messages import Finished

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
]

on_vllm = pytest.mark.parametrize("engine", ["vllm"], indirect=True)
MAX_TOKENS = 48
SYSTEM = "你是一只叫半砚的猫。"
ORDINARY = (
    "Who are you?",
    "What is the capital of France? Answer in one word.",
    "请把 “good morning” 翻译成中文。",
    "1+1=? 12345678 × 9 等于多少？",
    "写一首关于雪的诗，\n要四行。",
    "def add(a, b):\n    return a + b\n\nWhat does this do?",
    "Ｆｕｌｌ－ｗｉｄｔｈ　文字，以及 emoji 🐱🏮 和生僻字 𠮷、龘。",
    "  two  spaces ,\ttabs\t and   more   ",
    "naïve café — Ünïcödé … “quotes”",
    "我想去北京 then Shanghai，怎么走？",
)

Asked = Sequence[Turn]


@pytest.fixture(scope="module")
def questions() -> list[Asked]:
    """Fifty conversations, Chinese, English and mixed; some with a system text, some with turns before the last."""
    lines = [line for name in ("heldout", "sample") for line in (ASSETS / f"{name}.jsonl").read_text().splitlines()]
    texts = [*ORDINARY, *(json.loads(line)["instruction"] for line in lines[:30])]
    alone: list[Asked] = [[Turn("user", text)] for text in texts]
    with_system: list[Asked] = [[Turn("system", SYSTEM), Turn("user", text)] for text in texts[5:10]]
    later: list[Asked] = [
        [Turn("user", first), Turn("assistant", "我叫半砚，OK？"), Turn("user", last)]
        for first, last in zip(texts[:5], texts[10:15], strict=True)
    ]
    return [*alone, *with_system, *later]


@pytest.fixture(scope="module")
def prompts(nano: Nano, questions: list[Asked]) -> list[list[int]]:
    renderer = Renderer.load(nano.base_dir)
    return [renderer.prompt(turns) for turns in questions]


@pytest.fixture(scope="module")
def trained(nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter that the trainer made of the sample's rows in a few steps."""
    folder = tmp_path_factory.mktemp("trained")
    spec = training.spec(learning_rate=3e-3, max_steps=16, per_device_train_batch_size=8, max_length=256)
    run = training.run(nano.base_dir, ASSETS / "sample.jsonl", folder / "out", spec)
    result, _ = training.train(run)
    assert isinstance(result, Finished)
    return Path(result.bundle_dir)


@pytest.fixture(scope="module")
def other(nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that answers differently."""
    return engines.adapter(tmp_path_factory.mktemp("other") / "adapter", nano.base_dir, seed=5, std=0.5)


@pytest.fixture(scope="module")
def solo(nano: Nano, trained: Path) -> engines.Solo:
    return engines.Solo(nano.base_dir, {"persona": trained})


def test_it_starts_on_the_imported_folder_with_nothing_but_the_path(nano: Nano, tmp_path: Path) -> None:
    with plain_vllm(nano.base_dir, tmp_path / "vllm.log") as url, httpx.Client(base_url=url) as http:
        (card,) = http.get("/v1/models").json()["data"]
        assert (card["id"], card["max_model_len"]) == (str(nano.base_dir), 2048)
        asked = {"messages": [{"role": "user", "content": "你好"}], "temperature": 0, "max_tokens": 32}
        answer = http.post("/v1/chat/completions", json=asked, timeout=60).json()["choices"][0]
    assert answer["finish_reason"] == "stop"
    assert answer["message"]["content"].strip()


@on_vllm
def test_fifty_greedy_answers_of_base_and_adapter_are_transformers_own(
    engine: Restartable, prompts: list[list[int]], solo: engines.Solo, trained: Path, other: Path
) -> None:
    assert len(prompts) == 50
    base, persona = asyncio.run(_asked_twice(engine, prompts, trained, other))
    got = {"base": [answer["token_ids"] for answer in base], "persona": [answer["token_ids"] for answer in persona]}
    expected = {
        "base": [solo.greedy(prompt, None, max_tokens=MAX_TOKENS) for prompt in prompts],
        "persona": [solo.greedy(prompt, "persona", max_tokens=MAX_TOKENS) for prompt in prompts],
    }
    assert got == expected
    # An adapter that changes nothing, or answers that all run into the limit, would show no mistake.
    assert sum(a != b for a, b in zip(expected["base"], expected["persona"], strict=True)) >= 40
    assert sum(answer["finish_reason"] == "stop" for answer in [*base, *persona]) >= 50


@on_vllm
def test_the_folders_own_tokenizer_and_template_make_the_same_ids_and_answers(
    engine: Restartable, questions: list[Asked], prompts: list[list[int]], solo: engines.Solo
) -> None:
    bodies = [
        {"model": NAME, "messages": [{"role": turn.role, "content": turn.content} for turn in turns]}
        for turns in questions
    ]

    async def everyone() -> list[tuple[list[int], list[int]]]:
        async with _client(engine) as http:
            answers = await _all_bodies(http, "/v1/chat/completions", bodies)
        return [(answer["prompt_token_ids"], answer["choices"][0]["token_ids"]) for answer in answers]

    got = asyncio.run(everyone())
    assert [ids for ids, _ in got] == prompts
    assert [ids for _, ids in got] == [solo.greedy(prompt, None, max_tokens=MAX_TOKENS) for prompt in prompts]


async def _asked_twice(
    engine: Restartable, prompts: Sequence[Sequence[int]], adapter: Path, other: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Ask the base, then the adapter with another one in every batch; both are loaded while the engine answers."""
    async with _client(engine) as http:
        asking = asyncio.create_task(_all(http, "/v1/completions", [_to(NAME, prompt) for prompt in prompts]))
        for name, folder in (("persona", adapter), ("other", other)):
            loaded = await http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
            assert loaded.status_code == 200, loaded.text
        base = await asking
        both = [_to(name, prompt) for prompt in prompts for name in ("persona", "other")]
        return base, (await _all(http, "/v1/completions", both))[::2]


def _to(model: str, prompt: Sequence[int]) -> dict[str, Any]:
    return {"model": model, "prompt": prompt}


def _client(engine: Restartable) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {engines.KEY}"}
    return httpx.AsyncClient(base_url=engine.url, headers=headers, timeout=120, trust_env=False)


async def _all(http: httpx.AsyncClient, path: str, bodies: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [answer["choices"][0] for answer in await _all_bodies(http, path, bodies)]


async def _all_bodies(http: httpx.AsyncClient, path: str, bodies: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Ask greedily, never more at once than the engine has rows."""
    free = asyncio.Semaphore(ROWS)

    async def one(body: Mapping[str, Any]) -> dict[str, Any]:
        async with free:
            greedy = {"temperature": 0, "max_tokens": MAX_TOKENS, "return_token_ids": True}
            answer = await http.post(path, json={**body, **greedy})
        assert answer.status_code == 200, answer.text
        content: dict[str, Any] = answer.json()
        return content

    return await asyncio.gather(*(one(body) for body in bodies))
