"""The embedded engine as a process: protocol, mixed batches, sampling, failures that stay alone."""

import asyncio
import json
import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from core.inference.protocol import NOT_FINITE
from core.storage import bundles
from tests.support import engines, tiny_base

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


@dataclass(frozen=True)
class Setup:
    engine: engines.Engine
    adapters: Mapping[str, Path]
    base: Path


ENDS = [2, *range(50, 62)]
"""End tokens of the base: so many that answers do end, random as its weights are."""


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("engine")
    base = tiny_base.make(folder / "base")
    (base / "generation_config.json").write_text(json.dumps({"eos_token_id": ENDS, "pad_token_id": 3}))
    adapters = {
        "ad_all": engines.adapter(folder / "all", base, seed=1, r=4),
        "ad_two": engines.adapter(folder / "two", base, seed=2, r=2, modules=("q_proj", "v_proj"), std=0.3),
        "ad_wide": engines.adapter(folder / "wide", base, seed=3, r=8, modules=engines.MODULES[2:]),
        "ad_inf": engines.overflowing(folder / "inf", base),
    }
    with engines.running(base) as engine:
        with client(engine) as http:
            for name, path in adapters.items():
                loaded = load(http, name, path)
                assert loaded.status_code == 200, loaded.text
        yield Setup(engine, adapters, base)


def client(engine: engines.Engine) -> httpx.Client:
    return httpx.Client(base_url=engine.url, headers=engine.headers, timeout=60)


def load(http: httpx.Client, name: str, path: Path) -> httpx.Response:
    return http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(path)})


@pytest.fixture
def http(setup: Setup) -> Iterator[httpx.Client]:
    with client(setup.engine) as opened:
        yield opened


def asked(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": [1, 20, 30], "max_tokens": 8, "temperature": 0, **fields}


def test_health_needs_no_key_and_everything_else_does(setup: Setup) -> None:
    with httpx.Client(base_url=setup.engine.url) as keyless:
        assert keyless.get("/health").status_code == 200
        assert keyless.get("/v1/models").status_code == 401
        assert keyless.post("/v1/completions", json=asked()).status_code == 401
        wrong = keyless.get("/v1/models", headers={"Authorization": f"Bearer {engines.KEY}x"})
        assert (wrong.status_code, wrong.json()) == (401, {"error": "Unauthorized"})


def test_models_lists_the_base_and_the_adapters_on_it(setup: Setup, http: httpx.Client) -> None:
    base, *adapters = http.get("/v1/models").json()["data"]
    assert base == {
        "id": "tiny",
        "object": "model",
        "root": str(setup.base),
        "parent": None,
        "max_model_len": tiny_base.Shape().context,
    }
    assert {card["id"]: (card["root"], card["parent"]) for card in adapters} == {
        name: (str(path), "tiny") for name, path in setup.adapters.items()
    }


def test_forty_eight_requests_in_one_batch_answer_as_each_would_alone(setup: Setup) -> None:
    rng = random.Random(5)
    wanted = [
        asked(
            model=rng.choice(["tiny", "ad_all", "ad_two", "ad_wide"]),
            prompt=[1, *(rng.randrange(4, 260) for _ in range(rng.randrange(1, 70)))],
            max_tokens=rng.choice([1, 4, 12, 24]),
            repetition_penalty=rng.choice([1.0, 1.1, 1.3]),
        )
        for _ in range(48)
    ]

    async def everyone() -> list[dict[str, Any]]:
        async with httpx.AsyncClient(base_url=setup.engine.url, headers=setup.engine.headers, timeout=60) as http:
            return await asyncio.gather(*(one(http, body) for body in wanted))

    async def one(http: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(rng.random() * 0.3)
        response = await http.post("/v1/completions", json=body)
        assert response.status_code == 200, response.text
        choice: dict[str, Any] = response.json()["choices"][0]
        return choice

    got = asyncio.run(everyone())
    solo = engines.Solo(setup.base, {name: path for name, path in setup.adapters.items() if name != "ad_inf"})
    differing: set[str] = set()
    for body, choice in zip(wanted, got, strict=True):
        name, ids = None if body["model"] == "tiny" else body["model"], choice["token_ids"]
        options = {"max_tokens": body["max_tokens"], "penalty": body["repetition_penalty"]}
        assert ids == solo.greedy(body["prompt"], name, **options), body
        assert choice["finish_reason"] == ("stop" if ids[-1] in ENDS else "length")
        if name is not None and name not in differing and ids != solo.greedy(body["prompt"], None, **options):
            differing.add(name)
    # Neither batches without end tokens nor adapters that change nothing would show a mistake.
    assert {choice["finish_reason"] for choice in got} == {"stop", "length"}
    assert differing == {"ad_all", "ad_two", "ad_wide"}


def test_a_stream_gives_the_same_tokens_then_usage_then_done(http: httpx.Client) -> None:
    whole = http.post("/v1/completions", json=asked(model="ad_all", max_tokens=20)).json()
    body = asked(model="ad_all", max_tokens=20, stream=True, stream_options={"include_usage": True})
    with http.stream("POST", "/v1/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = [event.removeprefix("data: ") for event in response.read().decode().split("\n\n") if event]
    *chunks, usage = [json.loads(event) for event in events[:-1]]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert events[-1] == "[DONE]"
    assert [id_ for choice in choices for id_ in choice["token_ids"]] == whole["choices"][0]["token_ids"]
    assert "".join(choice["text"] for choice in choices) == whole["choices"][0]["text"]
    assert [choice.get("finish_reason") for choice in choices][:-1] == [None] * (len(choices) - 1)
    assert choices[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]
    assert whole["usage"]["completion_tokens"] == len(whole["choices"][0]["token_ids"])


def test_openais_own_client_reads_the_answers(setup: Setup) -> None:
    openai = OpenAI(base_url=f"{setup.engine.url}/v1", api_key=engines.KEY)
    with openai:
        answer = openai.completions.create(model="ad_two", prompt=[1, 20, 30], max_tokens=5, temperature=0)
        chunks = list(
            openai.completions.create(model="ad_two", prompt=[1, 20, 30], max_tokens=5, temperature=0, stream=True)
        )
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 3


def test_a_seed_gives_the_same_sample_in_any_company(setup: Setup, http: httpx.Client) -> None:
    body = asked(model="ad_wide", temperature=1.0, top_p=0.9, top_k=40, seed=11, max_tokens=24)
    alone = http.post("/v1/completions", json=body).json()["choices"][0]["token_ids"]

    async def in_company() -> list[list[int]]:
        async with httpx.AsyncClient(base_url=setup.engine.url, headers=setup.engine.headers, timeout=60) as http:
            bodies = [body if place % 3 else {**body, "model": "ad_all", "seed": place} for place in range(12)]
            answers = await asyncio.gather(*(http.post("/v1/completions", json=one) for one in bodies))
        return [answer.json()["choices"][0]["token_ids"] for answer in answers]

    crowd = asyncio.run(in_company())
    assert all(ids == alone for place, ids in enumerate(crowd) if place % 3)
    assert len({tuple(ids) for ids in crowd}) > 2
    greedy = http.post("/v1/completions", json={**body, "temperature": 0}).json()["choices"][0]["token_ids"]
    assert greedy != alone


def test_a_request_that_breaks_fails_alone(setup: Setup, http: httpx.Client) -> None:
    async def both() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(base_url=setup.engine.url, headers=setup.engine.headers, timeout=60) as http:
            good = http.post("/v1/completions", json=asked(max_tokens=40))
            bad = http.post("/v1/completions", json=asked(model="ad_inf", max_tokens=40))
            return await asyncio.gather(good, bad)

    good, bad = asyncio.run(both())
    assert good.json()["choices"][0]["token_ids"]
    assert bad.status_code == 500
    assert bad.json()["error"]["type"] == NOT_FINITE
    assert bad.json()["error"]["message"].startswith("ad_inf gives logits that are not finite")
    with http.stream("POST", "/v1/completions", json=asked(model="ad_inf", stream=True)) as response:
        *_, broken, done = response.read().decode().strip().split("\n\n")
    assert json.loads(broken.removeprefix("data: "))["error"]["type"] == NOT_FINITE
    assert done == "data: [DONE]"


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"model": "ad_unknown"}, 404, "The model `ad_unknown` does not exist."),
        ({"prompt": [1] * 250}, 400, "maximum context length is 256"),
        ({"max_tokens": 254}, 400, "maximum context length is 256"),
        ({"prompt": [tiny_base.ROWS]}, 400, "out of vocabulary"),
        ({"prompt": [-1]}, 400, "prompt.0"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": "text"}, 400, "prompt"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"temperature": -1}, 400, "temperature"),
        ({"seed": 2**70}, 400, "seed"),
        ({"n": 2}, 400, "n: "),
    ],
)
def test_bad_requests_are_refused_in_vllms_shape(
    http: httpx.Client, fields: dict[str, Any], status: int, said: str
) -> None:
    refused = http.post("/v1/completions", json=asked(**fields))
    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (status, status)
    assert said in error["message"]
    assert error["type"] == ("NotFoundError" if status == 404 else "BadRequestError")


def test_a_prompt_and_answer_that_just_fit_are_served(http: httpx.Client) -> None:
    answer = http.post("/v1/completions", json=asked(prompt=[1] * 248, max_tokens=8))
    assert answer.status_code == 200


def test_an_adapter_can_be_loaded_once_unloaded_and_loaded_again(setup: Setup, http: httpx.Client) -> None:
    path = setup.adapters["ad_two"]
    before = http.post("/v1/completions", json=asked(model="ad_two")).json()["choices"][0]["token_ids"]
    again = load(http, "ad_two", path)
    assert (again.status_code, again.json()["error"]["code"]) == (400, 400)
    assert "already been loaded" in again.json()["error"]["message"]
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "ad_two"}).status_code == 200
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "ad_two"}).status_code == 404
    assert http.post("/v1/completions", json=asked(model="ad_two")).status_code == 404
    assert load(http, "ad_two", path).status_code == 200
    assert http.post("/v1/completions", json=asked(model="ad_two")).json()["choices"][0]["token_ids"] == before


def test_an_adapter_may_not_take_the_bases_name(setup: Setup, http: httpx.Client) -> None:
    assert load(http, "tiny", setup.adapters["ad_two"]).status_code == 400


def test_an_adapter_of_another_chat_format_is_refused_by_the_engine_itself(
    setup: Setup, http: httpx.Client, tmp_path: Path
) -> None:
    for facts, shown in (({"template_hash": "1" * 64}, "'1111"), ({}, "'None'")):
        folder = tmp_path / str(len(facts))
        shutil.copytree(setup.adapters["ad_two"], folder)
        (folder / "manifest.json").unlink()
        bundles.seal(folder, facts)
        refused = load(http, "ad_foreign", folder)
        assert refused.status_code == 400
        assert f"template_hash {shown}" in refused.json()["error"]["message"]
        assert "train the adapter again on this base" in refused.json()["error"]["message"]
        assert http.post("/v1/completions", json=asked(model="ad_foreign")).status_code == 404


def test_a_folder_that_is_no_adapter_is_refused(setup: Setup, http: httpx.Client) -> None:
    refused = load(http, "ad_none", setup.base)
    assert (refused.status_code, refused.json()["error"]["type"]) == (400, "BadRequestError")
    assert "manifest.json" in refused.json()["error"]["message"]
    assert str(setup.base) not in refused.text


def test_an_engine_that_is_told_to_stop_ends_orderly_amid_an_answer(tmp_path: Path) -> None:
    base = engines.endless(tmp_path / "base", tiny_base.Shape(context=20_000))
    with engines.running(base) as engine, client(engine) as http:
        with http.stream("POST", "/v1/completions", json=asked(max_tokens=19_000, stream=True)) as response:
            lines = response.iter_lines()
            assert next(lines).startswith("data: ")
            engine.process.terminate()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        assert engine.process.wait(30) == 0
