"""Everyone who answers greedily gives the tokens of the literal BlueLM on the original tensors of bluelm-nano.

Everyone: transformers' `generate` on the imported folder, with and without a cache, and the embedded engine.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from core.text.chat import Renderer
from tests.support import engines, nano_model, oracle
from tests.support.oracle import BlueLM

PROMPTS = 200
BATCH = 25
MAX_NEW_TOKENS = 16


@dataclass(frozen=True)
class Pair:
    """An imported folder, loaded by transformers in fp32, the literal BlueLM beside it, and what that one answers."""

    base: Path
    model: LlamaForCausalLM
    reference: BlueLM
    prompts: list[list[int]]
    answers: list[list[int]]
    ends: frozenset[int]


def paired(base: Path, reference: BlueLM) -> Pair:
    renderer = Renderer.load(base)
    prompts = nano_model.prompts(renderer, PROMPTS)
    answers = by_oracle(reference, prompts, ends=renderer.eos_ids, use_cache=True)
    ended = sum(answer[-1] in renderer.eos_ids for answer in answers)
    assert PROMPTS // 2 < ended < PROMPTS, "answers that end and answers that are cut off should both be there"
    return Pair(
        base=base,
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval(),
        reference=reference,
        prompts=prompts,
        answers=answers,
        ends=renderer.eos_ids,
    )


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small gain nothing from a second thread, and lose much where it has to wait for a core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """bluelm-nano as it is, in bf16: one rounding, of the LayerNorm's result, which the oracle does as well."""
    return paired(
        nano_model.imported(tmp_path_factory.mktemp("shipped") / "nano"), nano_model.reference(torch.bfloat16)
    )


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """bluelm-nano written in fp32 and then imported: nothing is rounded on either side."""
    return paired(nano_model.imported_in_fp32(tmp_path_factory.mktemp("exact")), nano_model.reference())


@torch.inference_mode()
def by_oracle(
    reference: BlueLM, prompts: Sequence[list[int]], *, ends: frozenset[int], use_cache: bool
) -> list[list[int]]:
    return [
        answer
        for start in range(0, len(prompts), BATCH)
        for answer in oracle.greedy(
            reference,
            prompts[start : start + BATCH],
            max_new_tokens=MAX_NEW_TOKENS,
            ends=ends,
            use_cache=use_cache,
        )
    ]


def by_transformers(
    model: LlamaForCausalLM, prompts: Sequence[list[int]], *, ends: frozenset[int], use_cache: bool
) -> list[list[int]]:
    """Answer in left-padded batches, with the folder's own generation config: its ends and its padding."""
    answers = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        longest = max(map(len, batch))
        padding = [longest - len(prompt) for prompt in batch]
        output = model.generate(
            input_ids=torch.tensor([[3] * pad + prompt for pad, prompt in zip(padding, batch, strict=True)]),
            attention_mask=torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding]),
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            use_cache=use_cache,
        )
        for row in output[:, longest:].tolist():
            end = next((place for place, id_ in enumerate(row) if id_ in ends), len(row) - 1)
            assert set(row[end + 1 :]) <= {3}
            answers.append(row[: end + 1])
    return answers


def by_engine(base: Path, prompts: Sequence[list[int]]) -> list[list[int]]:
    """Ask the embedded engine's process for all at once; it batches them as it likes."""

    async def everyone(engine: engines.Engine) -> list[list[int]]:
        async with httpx.AsyncClient(base_url=engine.url, headers=engine.headers, timeout=120) as http:
            return await asyncio.gather(*(one(http, prompt) for prompt in prompts))

    async def one(http: httpx.AsyncClient, prompt: list[int]) -> list[int]:
        asked = {"model": "tiny", "prompt": prompt, "max_tokens": MAX_NEW_TOKENS, "temperature": 0}
        answer = await http.post("/v1/completions", json=asked)
        assert answer.status_code == 200, answer.text
        ids: list[int] = answer.json()["choices"][0]["token_ids"]
        return ids

    with engines.running(base, "--dtype", "float32") as engine:
        return asyncio.run(everyone(engine))


@pytest.mark.parametrize("kind", ["shipped", "exact"])
def test_transformers_gives_the_oracles_tokens_with_a_cache(kind: str, request: pytest.FixtureRequest) -> None:
    pair: Pair = request.getfixturevalue(kind)
    assert by_transformers(pair.model, pair.prompts, ends=pair.ends, use_cache=True) == pair.answers


@pytest.mark.parametrize(
    "places",
    [pytest.param(slice(0, 20), id="few"), pytest.param(slice(20, PROMPTS), id="many", marks=pytest.mark.slow)],
)
def test_neither_the_oracle_nor_transformers_needs_its_cache(shipped: Pair, places: slice) -> None:
    prompts, answers = shipped.prompts[places], shipped.answers[places]
    assert by_oracle(shipped.reference, prompts, ends=shipped.ends, use_cache=False) == answers
    assert by_transformers(shipped.model, prompts, ends=shipped.ends, use_cache=False) == answers


def test_the_embedded_engine_gives_the_oracles_tokens(shipped: Pair) -> None:
    assert by_engine(shipped.base, shipped.prompts) == shipped.answers


@torch.inference_mode()
def test_right_padded_teacher_forced_logits_are_the_oracles(exact: Pair) -> None:
    rows = [prompt + answer for prompt, answer in zip(exact.prompts, exact.answers, strict=True)]
    worst, largest = 0.0, 0.0
    for start in range(0, PROMPTS, BATCH):
        batch = rows[start : start + BATCH]
        longest = max(map(len, batch))
        ids_BT = torch.tensor([row + [3] * (longest - len(row)) for row in batch])
        mask_BT = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in batch])
        expected = oracle.logits(exact.reference, ids_BT, mask_BT)[mask_BT.bool()]
        found = exact.model(input_ids=ids_BT, attention_mask=mask_BT).logits[mask_BT.bool()]
        worst = max(worst, float((found - expected).abs().max()))
        largest = max(largest, float(expected.abs().max()))
    print(f"largest difference of a logit {worst:.2e}; largest logit {largest:.1f}")
    # A trained model's logits are large, and the order of sums changes the last digits of each.
    assert worst <= 1e-6 * largest
