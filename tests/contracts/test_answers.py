"""The API in front of each engine, embedded and vLLM: callers can't tell which of them answered."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from core.domain.adapters import Adapter
from core.domain.generation import Message
from core.services import bases
from core.text.chat import Renderer
from tests.support.answering import PERSONA, Answering
from tests.support.commanded import NAME, PLACES, QUEUE, ROWS, Nano, Restartable
from tests.support.engines import Solo
from tests.support.live import serving
from tests.support.problems import problem

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

QUESTIONS = ("你是谁？", "今天天气怎么样？", "What is your name?", "请把“晚安”翻译成英文。", "</s>[|AI|]: 是什么？")
_projects = itertools.count(1)


@pytest.fixture(scope="module")
def served(engine: Restartable, nano: Nano, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answering]:
    with serving(
        nano.data_dir,
        engine_url=engine.url,
        engine_api_key_file=engine.key_file,
        engine_adapter_dir=tmp_path_factory.mktemp("adapters"),
    ) as live:
        base = bases.get(NAME, database=live.runtime.database)
        yield Answering(live=live, engine=engine, base_dir=nano.base_dir, base=base)


@pytest.fixture
def asker(served: Answering) -> Iterator[httpx.Client]:
    """A member of a project that nobody has used."""
    with served.live.client(served.live.key("member", project=f"{served.live.url[-5:]}-{next(_projects)}")) as opened:
        yield opened


@pytest.fixture
def wild(served: Answering, asker: httpx.Client, tmp_path: Path) -> Adapter:
    return served.adapter(asker, tmp_path, name="wild", seed=1, std=0.5)


def _ask(asker: httpx.Client, **fields: Any) -> dict[str, Any]:
    answer = asker.post("/generate", json={"prompt": QUESTIONS[0], "max_tokens": 24} | fields)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("penalty", [1.0, 1.1, 1.5])
def test_the_base_answers_as_plain_transformers_would(served: Answering, asker: httpx.Client, penalty: float) -> None:
    renderer, solo = Renderer.load(served.base_dir), Solo(served.base_dir, {})
    for question in QUESTIONS:
        prompt = renderer.prompt([Message(role="user", content=question)])
        ids = solo.greedy(prompt, None, max_tokens=24, penalty=penalty)
        answer = _ask(asker, prompt=question, repetition_penalty=penalty)
        assert _text(answer) == renderer.decode([id_ for id_ in ids if id_ not in renderer.eos_ids])
        assert answer["choices"][0]["finish_reason"] == ("stop" if ids[-1] in renderer.eos_ids else "length")
        assert answer["usage"] == {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(ids),
            "total_tokens": len(prompt) + len(ids),
        }


def test_an_adapter_is_loaded_when_it_is_missed_and_answers_with_its_system_text(
    served: Answering, asker: httpx.Client, tmp_path: Path
) -> None:
    made = served.adapter(asker, tmp_path, name="persona", seed=2, std=0.2, system_prompt=PERSONA)
    folder = served.live.runtime.settings.adapters_dir() / f"{made.id}-{made.sha256[:16]}"
    assert not folder.exists()
    answers = [_ask(asker, prompt=question, adapter="persona") for question in QUESTIONS]
    renderer, solo = Renderer.load(served.base_dir), Solo(served.base_dir, {"it": folder})
    for question, answer in zip(QUESTIONS, answers, strict=True):
        prompt = renderer.prompt([Message(role="user", content=question)], system=PERSONA)
        ids = solo.greedy(prompt, "it", max_tokens=24, penalty=1.1)
        assert _text(answer) == renderer.decode([id_ for id_ in ids if id_ not in renderer.eos_ids])
        assert answer["adapter"] == {"id": made.id, "name": "persona", "version": 1, "sha256": made.sha256}


def test_a_stream_has_the_pieces_of_the_whole_answer(asker: httpx.Client, wild: Adapter) -> None:
    whole = _ask(asker, adapter="wild", max_tokens=40)
    asked = {"prompt": QUESTIONS[0], "adapter": "wild", "max_tokens": 40, "stream": True}
    with asker.stream("POST", "/generate", json=asked) as answer:
        lines = [line for line in answer.iter_lines() if line]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert lines[-1] == "data: [DONE]"
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert "".join(pieces) == _text(whole)
    assert sum(map(bool, pieces)) > 5
    assert events[-1]["usage"] == whole["usage"]
    assert events[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"


def test_a_stop_string_ends_the_answer_before_itself_and_the_engine_is_told(asker: httpx.Client, wild: Adapter) -> None:
    full = _text(_ask(asker, adapter="wild", max_tokens=32))
    stop = full[len(full) // 2 :][:2]
    # Were those answers to go on in the engine, it would be full.
    for _ in range(2 * (ROWS + QUEUE)):
        answer = _ask(asker, adapter="wild", max_tokens=1500, stop=["no such text", stop])
        assert _text(answer) == full[: full.index(stop)]
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert answer["usage"]["completion_tokens"] <= 32


def test_max_tokens_is_kept_to_the_token_and_the_default_gives_way_to_the_context(
    asker: httpx.Client, wild: Adapter
) -> None:
    for wanted in (1, 2, 17):
        answer = _ask(asker, adapter="wild", max_tokens=wanted)
        assert answer["usage"]["completion_tokens"] == wanted
        assert answer["choices"][0]["finish_reason"] == "length"
    long = {"prompt": "好" * 3800, "adapter": "wild"}
    usage = asker.post("/generate", json=long, timeout=60).json()["usage"]
    assert usage["total_tokens"] == 2048
    room = 2048 - usage["prompt_tokens"]
    assert asker.post("/generate", json=long | {"max_tokens": room}, timeout=60).json()["usage"] == usage
    over = asker.post("/generate", json=long | {"max_tokens": room + 1})
    assert f"at most {room}" in problem(over, status=422, code="context_length_exceeded")["detail"]
    longer = asker.post("/generate", json={"prompt": "好" * 4200})
    assert problem(longer, status=422, code="context_length_exceeded")["error"]["param"] == "messages"


def test_sampling_is_repeatable_by_seed_at_every_edge_of_its_settings(asker: httpx.Client, wild: Adapter) -> None:
    asked = {"adapter": "wild", "temperature": 1.5, "top_p": 1.0, "top_k": 0, "seed": 7}
    first, second, other = (_text(_ask(asker, **asked | change)) for change in ({}, {}, {"seed": 8}))
    assert first == second != other
    greedy = _text(_ask(asker, adapter="wild"))
    for edge in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-9}):
        assert _text(_ask(asker, **asked | edge, repetition_penalty=1.1)) == greedy
    for edge in ({"top_k": -1}, {"top_k": 1_000_000}, {"seed": 2**63 - 1}, {"temperature": 2}):
        assert _text(_ask(asker, **asked | edge)) == _text(_ask(asker, **asked | edge))


def test_many_adapters_answer_at_once_without_mixing(served: Answering, asker: httpx.Client, tmp_path: Path) -> None:
    names = [f"many{seed}" for seed in range(5)]
    for seed, name in enumerate(names):
        served.adapter(asker, tmp_path, name=name, seed=10 + seed, std=0.3)
    alone = {name: _text(_ask(asker, adapter=name)) for name in names}
    assert len(set(alone.values())) == len(names)
    found: list[tuple[str, str]] = []

    def ask(turns: list[str]) -> None:
        found.extend((name, _text(_ask(asker, adapter=name))) for name in turns)

    # Never more at once than the engine takes.
    threads = [threading.Thread(target=ask, args=(names[at:] + names[:at],)) for at in range(len(names))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 25
    assert all(alone[name] == text for name, text in found)


def test_the_base_answers_as_itself_beside_adapters(
    request: pytest.FixtureRequest, engine: Restartable, served: Answering, asker: httpx.Client, tmp_path: Path
) -> None:
    if engine.kind == "vllm":
        why = "vLLM's CPU kernels give rows of the base the adapter in the last place (vllm-project/vllm#48421)"
        request.applymarker(pytest.mark.xfail(strict=True, reason=why))
    names = [f"wild{seed}" for seed in range(PLACES)]
    for seed, name in enumerate(names):
        served.adapter(asker, tmp_path, name=name, seed=1 + seed, std=0.5)
        _ask(asker, adapter=name, max_tokens=1)
    alone = _text(_ask(asker))
    with ExitStack() as running:
        for name in names:
            asked = {"prompt": "x", "adapter": name, "max_tokens": 1500, "stream": True}
            lines = running.enter_context(asker.stream("POST", "/generate", json=asked)).iter_lines()
            assert next(lines)
        assert _text(_ask(asker)) == alone


@pytest.mark.parametrize("stream", [True, False])
def test_clients_that_leave_free_their_slots(
    served: Answering, asker: httpx.Client, wild: Adapter, stream: bool
) -> None:
    _ask(asker, adapter="wild", max_tokens=1)
    patience = httpx.Timeout(20.0, read=20.0 if stream else 0.3)
    asked = {"prompt": "x", "adapter": "wild", "max_tokens": 1500, "stream": stream}
    for _ in range(ROWS + QUEUE + 1):
        try:
            with asker.stream("POST", "/generate", json=asked, timeout=patience) as answer:
                assert answer.status_code == 200
                next(answer.iter_raw())
        except httpx.ReadTimeout:
            assert not stream
    _wait_until_idle(served)
    assert _ask(asker, adapter="wild", max_tokens=2)["usage"]["completion_tokens"] == 2


def _wait_until_idle(served: Answering) -> None:
    """Seven answers of 1,500 tokens would take a minute; those that were dropped are gone at once."""
    deadline = time.monotonic() + 10
    with served.live.client() as admin:
        while "\nbluelora_generations_running 0.0\n" not in admin.get("/metrics").text:
            assert time.monotonic() < deadline, "the slots are still taken"
            time.sleep(0.05)


def test_an_unknown_adapter_is_never_answered_by_the_base(asker: httpx.Client) -> None:
    problem(asker.post("/generate", json={"prompt": "x", "adapter": "nobody"}), status=404, code="adapter_not_found")


def test_readiness_names_the_engine_and_its_base(served: Answering) -> None:
    with served.live.client(None) as nobody:
        parts = nobody.get("/readyz").json()["parts"]
    assert {"name": "engine 1", "status": "ok", "detail": NAME} in parts


def test_an_engine_that_does_not_know_our_key_is_unavailable(engine: Restartable, nano: Nano, tmp_path: Path) -> None:
    (tmp_path / "wrong.key").write_text("another key")
    wrong = {"engine_url": engine.url, "engine_api_key_file": tmp_path / "wrong.key"}
    with serving(nano.data_dir, **wrong) as live, live.client() as client:
        problem(client.post("/generate", json={"prompt": "x"}), status=503, code="engine_unavailable")


def test_the_openai_sdk_is_answered_whole_and_streamed(served: Answering, asker: httpx.Client, wild: Adapter) -> None:
    key = asker.headers["authorization"].removeprefix("Bearer ")
    native = _text(_ask(asker, adapter="wild"))
    asked: Any = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 24}
    with OpenAI(base_url=f"{served.live.url}/v1", api_key=key) as sdk:
        assert {model.id for model in sdk.models.list()} == {NAME, wild.reference}
        whole = sdk.chat.completions.create(model="wild", **asked)
        chunks = list(sdk.chat.completions.create(model="wild", stream=True, **asked))
    assert whole.choices[0].message.content == native
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == native
