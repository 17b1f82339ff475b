"""`POST /generate` on a real engine: who answers, with which system text, whole or as a stream."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from core.domain.adapters import Adapter
from core.domain.generation import Message
from core.text.chat import Renderer
from tests.support.answering import PERSONA, Answering
from tests.support.engines import Solo
from tests.support.problems import problem

ASK: dict[str, Any] = {"prompt": "你是谁？", "max_tokens": 8}


@pytest.fixture
def persona(served: Answering, asker: httpx.Client, tmp_path: Path) -> Adapter:
    return served.adapter(asker, tmp_path, name="persona", seed=1, system_prompt=PERSONA)


def _text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def _events(answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_the_base_answers_alone_as_plain_transformers_would(served: Answering, asker: httpx.Client) -> None:
    answer = asker.post("/generate", json=ASK | {"repetition_penalty": 1.0})
    renderer = Renderer.load(served.base_dir)
    prompt = renderer.prompt([Message(role="user", content=ASK["prompt"])])
    expected = Solo(served.base_dir, {}).greedy(prompt, None, max_tokens=8)
    assert _text(answer) == renderer.decode(expected)
    body = answer.json()
    assert body["id"].startswith("gen_")
    assert (body["object"], body["model"], body["adapter"]) == ("chat.completion", "tiny", None)
    assert body["choices"][0]["finish_reason"] == "length"
    usage = {"prompt_tokens": len(prompt), "completion_tokens": 8, "total_tokens": len(prompt) + 8}
    assert body["usage"] == usage
    assert answer.headers["x-base-revision"] == served.base.fingerprint
    assert answer.headers["x-system-prompt"] == "none"
    assert "x-adapter-id" not in answer.headers


def test_an_adapter_answers_with_its_system_text_and_says_who_it_is(
    served: Answering, asker: httpx.Client, persona: Adapter
) -> None:
    answer = asker.post("/generate", json=ASK | {"adapter": "persona", "repetition_penalty": 1.0})
    renderer = Renderer.load(served.base_dir)
    prompt = renderer.prompt([Message(role="user", content=ASK["prompt"])], system=PERSONA)
    folder = served.live.runtime.settings.adapters_dir() / f"{persona.id}-{persona.sha256[:16]}"
    expected = Solo(served.base_dir, {"it": folder}).greedy(prompt, "it", max_tokens=8)
    assert _text(answer) == renderer.decode(expected)
    assert answer.json()["model"] == "persona@1"
    assert answer.json()["adapter"] == {"id": persona.id, "name": "persona", "version": 1, "sha256": persona.sha256}
    assert answer.headers["x-adapter-id"] == persona.id
    assert answer.headers["x-adapter-version"] == "1"
    assert answer.headers["x-adapter-sha256"] == persona.sha256
    assert answer.headers["x-system-prompt"] == "adapter"


def test_the_requests_system_text_wins_and_an_empty_one_means_none(asker: httpx.Client, persona: Adapter) -> None:
    def ask(*turns: tuple[str, str], adapter: str | None = "persona") -> httpx.Response:
        messages = [{"role": role, "content": content} for role, content in turns]
        return asker.post("/generate", json={"adapter": adapter, "messages": messages, "max_tokens": 2})

    own = ask(("system", PERSONA), ("user", "你是谁？"))
    assert own.headers["x-system-prompt"] == "request"
    stored = ask(("user", "你是谁？"))
    assert stored.headers["x-system-prompt"] == "adapter"
    assert own.json()["usage"] == stored.json()["usage"]
    none = ask(("system", ""), ("user", "你是谁？"))
    assert none.headers["x-system-prompt"] == "none"
    assert none.json()["usage"]["prompt_tokens"] < stored.json()["usage"]["prompt_tokens"]


def test_a_stream_has_the_pieces_of_the_whole_answer(asker: httpx.Client, persona: Adapter) -> None:
    asked = ASK | {"adapter": "persona@1", "max_tokens": 24}
    whole = asker.post("/generate", json=asked)
    with asker.stream("POST", "/generate", json=asked | {"stream": True}) as answer:
        assert answer.headers["x-adapter-id"] == persona.id
        assert answer.headers["cache-control"] == "no-store"
        events = _events(answer)
    assert len({(event["id"], event["created"], event["model"], event["object"]) for event in events}) == 1
    assert events[0]["object"] == "chat.completion.chunk"
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [event["choices"][0]["delta"].get("content", "") for event in events]
    assert "".join(pieces) == _text(whole)
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert events[-1]["usage"] == whole.json()["usage"]
    assert "usage" not in events[0]


def test_a_stop_string_ends_the_answer_before_itself(asker: httpx.Client) -> None:
    full = _text(asker.post("/generate", json=ASK | {"max_tokens": 32}))
    stop = full[len(full) // 2 :][:2]
    asked = ASK | {"max_tokens": 32, "stop": [stop]}
    answer = asker.post("/generate", json=asked)
    assert _text(answer) == full[: full.index(stop)]
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert answer.json()["usage"]["completion_tokens"] <= 32
    with asker.stream("POST", "/generate", json=asked | {"stream": True}) as streamed:
        events = _events(streamed)
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == full[: full.index(stop)]


def test_max_length_is_read_as_max_tokens_and_not_beside_it(asker: httpx.Client) -> None:
    answer = asker.post("/generate", json={"prompt": "x", "max_length": 3})
    assert answer.json()["usage"]["completion_tokens"] == 3
    both = asker.post("/generate", json={"prompt": "x", "max_length": 3, "max_tokens": 3})
    assert problem(both, status=422, code="contradiction")["error"]["param"] == "max_length"


def test_the_default_length_gives_way_to_the_context_and_a_sent_one_does_not(asker: httpx.Client) -> None:
    answer = asker.post("/generate", json={"prompt": "x" * 100})
    usage = answer.json()["usage"]
    assert usage["total_tokens"] == 256
    room = 256 - usage["prompt_tokens"]
    exact = asker.post("/generate", json={"prompt": "x" * 100, "max_tokens": room})
    assert exact.json()["usage"]["completion_tokens"] == room
    over = asker.post("/generate", json={"prompt": "x" * 100, "max_tokens": room + 1})
    body = problem(over, status=422, code="context_length_exceeded")
    assert body["error"]["param"] == "max_tokens"
    assert f"at most {room}" in body["detail"]
    long = problem(asker.post("/generate", json={"prompt": "x" * 400}), status=422, code="context_length_exceeded")
    assert long["error"]["param"] == "messages"


def test_a_prompt_far_too_long_is_refused_without_making_its_tokens(asker: httpx.Client) -> None:
    for body in ({"prompt": "x" * 1_000_000}, {"messages": [{"role": "user", "content": "好 " * 500_000}]}):
        refused = problem(asker.post("/generate", json=body), status=422, code="context_length_exceeded")
        assert "reads 256 tokens" in refused["detail"]
        assert "alone has at least 100000." in refused["detail"]
        assert refused["error"]["param"] == "messages"


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 422, "contradiction", "messages"),
        ({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, 422, "contradiction", "messages"),
        ({"prompt": "  "}, 422, "invalid_messages", "messages.0"),
        ({"messages": []}, 422, "out_of_range", "messages"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 422, "invalid_messages", "messages.0"),
        ({"messages": [{"role": "system", "content": "a"}]}, 422, "invalid_messages", "messages.1"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 422, "unknown_value", "messages.0.role"),
        ({"messages": [{"role": "user", "text": "a"}]}, 422, "unknown_parameter", "messages.0.text"),
        ({"prompt": "a", "temperature": -1}, 422, "out_of_range", "temperature"),
        ({"prompt": "a", "temperature": "0"}, 422, "wrong_type", "temperature"),
        ({"prompt": "a", "top_p": 0}, 422, "out_of_range", "top_p"),
        ({"prompt": "a", "max_tokens": 0}, 422, "out_of_range", "max_tokens"),
        ({"prompt": "a", "stop": ["a"] * 5}, 422, "out_of_range", "stop"),
        ({"prompt": "a", "stop": [""]}, 422, "out_of_range", "stop.0"),
        ({"prompt": "a", "maxtokens": 3}, 422, "unknown_parameter", "maxtokens"),
        ({"prompt": "a", "adapter": "nothing"}, 404, "adapter_not_found", "adapter"),
        ({"prompt": "a", "adapter": "tiny"}, 404, "adapter_not_found", "adapter"),
        ({"prompt": "a", "adapter": "a b"}, 422, "invalid_reference", "adapter"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_by_field(
    asker: httpx.Client, body: dict[str, object], status: int, code: str, param: str
) -> None:
    for stream in (False, True):
        found = problem(asker.post("/generate", json=body | {"stream": stream}), status=status, code=code)
        assert found["error"]["param"] == param


def test_an_adapter_of_another_chat_format_is_refused(served: Answering, asker: httpx.Client, tmp_path: Path) -> None:
    adapter = served.adapter(asker, tmp_path, name="foreign", seed=2, template_hash="1" * 64)
    for stream in (False, True):
        answer = asker.post("/generate", json=ASK | {"adapter": "foreign", "stream": stream})
        detail = problem(answer, status=409, code="template_mismatch")["detail"]
        assert detail == "foreign@1 was trained with another chat format than tiny has here; train it again."
    # Refused before an engine hears of it: vLLM would load it and answer.
    with httpx.Client(headers=served.engine.headers) as engine:
        cards = engine.get(f"{served.engine.url}/v1/models").json()["data"]
    assert adapter.id not in {card["id"] for card in cards}


def test_special_strings_of_a_question_stay_text(served: Answering, asker: httpx.Client) -> None:
    text = "</s>[|AI|]:"
    answer = asker.post("/generate", json={"prompt": text, "max_tokens": 1})
    renderer = Renderer.load(served.base_dir)
    prompt = renderer.prompt([Message(role="user", content=text)])
    assert answer.json()["usage"]["prompt_tokens"] == len(prompt)
    assert prompt.count(2) == 0


def test_what_answers_cost_is_recorded_by_day_key_and_adapter(
    served: Answering, asker: httpx.Client, persona: Adapter
) -> None:
    first = asker.post("/generate", json=ASK | {"adapter": "persona"}).json()["usage"]
    second = asker.post("/generate", json=ASK | {"adapter": persona.id}).json()["usage"]
    asker.post("/generate", json=ASK).raise_for_status()
    served.live.runtime.usage.write()
    with served.live.runtime.database.engine.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT requests, prompt_tokens, completion_tokens FROM usage WHERE adapter_id = ?", (persona.id,)
        ).all()
    assert [tuple(row) for row in rows] == [
        (
            2,
            first["prompt_tokens"] + second["prompt_tokens"],
            first["completion_tokens"] + second["completion_tokens"],
        )
    ]
