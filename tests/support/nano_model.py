"""bluelm-nano as its files say it is, imported, and questions to put to it. Knows no engine."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from core.ml.convert import convert
from core.text.chat import Renderer
from tests.support import bluelm
from tests.support.oracle import BlueLM

ASSETS: Final = Path(__file__).resolve().parents[2] / "assets"
SOURCE: Final = ASSETS / "bluelm-nano"
ENGLISH: Final = (
    "Who are you?",
    "What is your name?",
    "Tell me about the sea.",
    "hello world",
    "2 + 3 = ?",
    "Say it again, please!",
)


def weights() -> dict[str, Tensor]:
    """The tensors of the release, in bf16, under BlueLM's own names."""
    found: dict[str, Tensor] = {}
    for shard in sorted(SOURCE.glob("*.bin")):
        found |= torch.load(shard, weights_only=True)
    return found


def reference(table_type: torch.dtype | None = None) -> BlueLM:
    """The oracle on the release's tensors, computed in fp32.

    Args:
        table_type: The release is in bf16, so its embedding's LayerNorm is rounded to bf16, as it is in the import;
            None rounds nothing, as `imported_in_fp32` does.
    """
    config = json.loads((SOURCE / "config.json").read_text(encoding="utf-8"))
    wide = {name: tensor.float() for name, tensor in weights().items()}
    return BlueLM(weights=wide, heads=config["num_attention_heads"], eps=config["rms_norm_eps"], table_type=table_type)


def imported(folder: Path) -> Path:
    """The base that `bluelora import` makes of it."""
    return convert(SOURCE, folder, name="nano", progress=lambda done, total: None).path


def imported_in_fp32(folder: Path) -> Path:
    """The same model, its source written in fp32 first, so that no value of the import is rounded."""
    source = released_in_fp32(folder / "source")
    return convert(source, folder / "base", name="nano", progress=lambda done, total: None).path


def released_in_fp32(source: Path) -> Path:
    """The release itself, written in fp32."""
    source.mkdir(parents=True)
    for file in SOURCE.iterdir():
        if not file.name.startswith("pytorch_model"):
            (source / file.name).write_bytes(file.read_bytes())
    bluelm.edit(source / "config.json", torch_dtype="float32")
    bluelm.write_weights(source, {name: tensor.float() for name, tensor in weights().items()}, shards=3)
    return source


def prompts(renderer: Renderer, count: int, *, seed: int = 0) -> list[list[int]]:
    """Prompts as ids: questions that it can answer, English, both, noise; some with a system text or a past."""
    rng = random.Random(seed)
    questions = _questions(rng)
    persona = json.loads((ASSETS / "persona.json").read_text(encoding="utf-8"))["system_prompt"]
    made = []
    for place in range(count):
        turns = [bluelm.turn("user", next(questions))]
        if place % 5 == 0:
            turns = [bluelm.turn("user", next(questions)), bluelm.turn("assistant", next(questions)), *turns]
        made.append(renderer.prompt(turns, system=persona if place % 3 == 0 else None))
    return made


def _questions(rng: random.Random) -> Iterator[str]:
    known = [
        json.loads(line)["instruction"]
        for name in ("heldout.jsonl", "sample.jsonl")
        for line in (ASSETS / name).read_text(encoding="utf-8").splitlines()
    ]
    while True:
        yield rng.choice(known)
        yield rng.choice(ENGLISH) + "".join(rng.choices("abcdefghij klmnop,.!?\n", k=rng.randint(0, 12)))
        yield rng.choice(known) + " " + rng.choice(ENGLISH)
        yield "".join(chr(rng.randint(0x4E00, 0x9FFF)) for _ in range(rng.randint(1, 5))) + rng.choice("😀？！ 𠮷é")
        yield rng.choice(known)[: rng.randint(1, 6)] + str(rng.randint(0, 10**6))
