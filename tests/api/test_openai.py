"""The unmodified OpenAI SDK against `/v1`, and what OpenAI's clients send that means nothing or too much here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletionMessageParam

from core.domain.adapters import Adapter
from tests.support.answering import PERSONA, Answering
from tests.support.problems import problem

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": "你是谁？"}]


@pytest.fixture
def sdk(served: Answering, asker: httpx.Client) -> Iterator[OpenAI]:
    key = asker.headers["authorization"].removeprefix("Bearer ")
    with OpenAI(base_url=f"{served.live.url}/v1", api_key=key) as client:
        yield client


@pytest.fixture
def persona(served: Answering, asker: httpx.Client, tmp_path: Path) -> Adapter:
    return served.adapter(asker, tmp_path, name="persona", seed=1, system_prompt=PERSONA)


def test_the_sdk_lists_models_and_finds_one(sdk: OpenAI, persona: Adapter) -> None:
    models = {model.id: model for model in sdk.models.list()}
    assert set(models) == {"tiny", "persona@1"}
    assert sdk.models.retrieve("persona").id == "persona@1"
    with pytest.raises(openai.NotFoundError) as caught:
        sdk.models.retrieve("nothing")
    assert (caught.value.code, caught.value.param, caught.value.type) == ("model_not_found", "model", "not_found_error")
    assert caught.value.request_id


def test_the_sdk_completes_a_chat_whole_and_streamed(sdk: OpenAI, asker: httpx.Client, persona: Adapter) -> None:
    native = asker.post("/generate", json={"adapter": "persona", "messages": ASK, "max_tokens": 12}).json()
    raw = sdk.chat.completions.with_raw_response.create(model="persona", messages=ASK, max_tokens=12)
    whole = raw.parse()
    assert raw.headers["x-adapter-id"] == persona.id
    assert whole.model == "persona@1"
    assert whole.choices[0].message.content == native["choices"][0]["message"]["content"]
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 12
    assert whole._request_id

    chunks = list(
        sdk.chat.completions.create(
            model="persona@1",
            messages=ASK,
            max_completion_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"


def test_the_streaming_helper_of_the_sdk_works(sdk: OpenAI, persona: Adapter) -> None:
    full = sdk.chat.completions.create(model="persona", messages=ASK, max_tokens=16).choices[0].message.content
    assert full is not None
    with sdk.chat.completions.stream(model="persona", messages=ASK, max_tokens=16, stop=[full[3:5]]) as stream:
        for _ in stream:
            pass
        message = stream.get_final_completion().choices[0].message
    assert message.content == full[: full.index(full[3:5])]
    # Clients send answers back as they got them, absent fields as nulls.
    turns: Any = [*ASK, message.model_dump(), {"role": "user", "content": "还有呢？"}]
    assert sdk.chat.completions.create(model="persona", max_tokens=2, messages=turns).usage is not None


def test_a_developer_is_a_system_and_parts_of_text_are_joined(sdk: OpenAI, persona: Adapter) -> None:
    parted = sdk.chat.completions.with_raw_response.create(
        model="persona",
        max_tokens=1,
        messages=[
            {"role": "developer", "content": PERSONA},
            {"role": "user", "content": [{"type": "text", "text": "你是"}, {"type": "text", "text": "谁？"}]},
        ],
    )
    plain = sdk.chat.completions.create(model="persona", max_tokens=1, messages=ASK)
    assert parted.headers["x-system-prompt"] == "request"
    assert parted.parse().usage == plain.usage


def test_the_base_answers_under_its_name_and_extras_pass(sdk: OpenAI, asker: httpx.Client) -> None:
    extras = {"top_k": 1, "repetition_penalty": 1.3}
    completion = sdk.chat.completions.create(
        model="tiny",
        messages=ASK,
        max_tokens=8,
        temperature=1.0,
        seed=3,
        user="someone",
        store=False,
        metadata={"a": "b"},
        n=1,
        frequency_penalty=0,
        response_format={"type": "text"},
        extra_body=extras,
    )
    native = asker.post(
        "/generate", json={"messages": ASK, "max_tokens": 8, "temperature": 1.0, "seed": 3, **extras}
    ).json()
    assert completion.choices[0].message.content == native["choices"][0]["message"]["content"]
    assert completion.model == "tiny"


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "unsupported_parameter", "tools"),
        ({"n": 2}, "unsupported_parameter", "n"),
        ({"logprobs": True}, "unsupported_parameter", "logprobs"),
        ({"logit_bias": {"1": 5}}, "unsupported_parameter", "logit_bias"),
        ({"frequency_penalty": 0.5}, "unsupported_parameter", "frequency_penalty"),
        ({"response_format": {"type": "json_object"}}, "unsupported_parameter", "response_format"),
        ({"nonsense": 1}, "unknown_parameter", "nonsense"),
        ({"temperature": 3}, "out_of_range", "temperature"),
        ({"max_tokens": 0}, "out_of_range", "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "contradiction", "max_completion_tokens"),
        ({"stop": [1]}, "wrong_type", "stop.0"),
        ({"messages": "hi"}, "wrong_type", "messages"),
        ({"messages": []}, "out_of_range", "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            "unsupported_parameter",
            "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "missing_field", "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x" * 400}]}, "context_length_exceeded", "messages"),
        ({"max_tokens": 250}, "context_length_exceeded", "max_tokens"),
    ],
)
def test_what_cannot_be_served_is_400_and_names_the_parameter(
    asker: httpx.Client, change: dict[str, Any], code: str, param: str
) -> None:
    for stream in (False, True):
        body = {"model": "tiny", "messages": ASK, "stream": stream} | change
        answer = asker.post("/v1/chat/completions", json=body)
        assert problem(answer, status=400, code=code)["error"]["param"] == param


def test_nulls_are_as_good_as_nothing(asker: httpx.Client) -> None:
    nulls = dict.fromkeys(("stop", "seed", "tools", "temperature", "max_completion_tokens", "stream_options", "user"))
    answer = asker.post("/v1/chat/completions", json={"model": "tiny", "messages": ASK, "max_tokens": 1} | nulls)
    assert answer.status_code == 200, answer.text


def test_a_stop_may_be_one_text(asker: httpx.Client) -> None:
    body = {"model": "tiny", "messages": ASK, "max_tokens": 16}
    full = asker.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    stopped = asker.post("/v1/chat/completions", json=body | {"stop": full[3:5]}).json()["choices"][0]
    assert stopped["message"]["content"] == full[: full.index(full[3:5])]
    assert stopped["finish_reason"] == "stop"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/generate"])
def test_a_body_that_does_not_parse_is_400_on_both_surfaces(asker: httpx.Client, path: str) -> None:
    answer = asker.post(path, content=b"{", headers={"Content-Type": "application/json"})
    problem(answer, status=400, code="malformed_json")


def test_the_sdk_does_not_repeat_what_cannot_succeed(served: Answering, sdk: OpenAI, tmp_path: Path) -> None:
    asked: list[str] = []
    with served.live.client(sdk.api_key) as owner:
        served.adapter(owner, tmp_path, name="odd", seed=5, template_hash="2" * 64)
    counting = httpx2.Client(event_hooks={"request": [lambda request: asked.append(request.url.path)]}, trust_env=False)
    with (
        OpenAI(base_url=sdk.base_url, api_key=sdk.api_key, http_client=counting) as once,
        pytest.raises(openai.ConflictError) as caught,
    ):
        once.chat.completions.create(model="odd", messages=ASK)
    assert caught.value.code == "template_mismatch"
    assert len(asked) == 1
