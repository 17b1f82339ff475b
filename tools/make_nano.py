"""Rebuild `assets/bluelm-nano`: corpus, tokenizer, pretraining, official files, provenance.

python -m tools.make_nano            rebuild (about 12 minutes on 2 cores)
python -m tools.make_nano --check    compare corpus, file hashes and the first losses with the provenance
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tools import nano_corpus, nano_files, nano_tokenizer
from tools.nano_corpus import Dialogue
from tools.nano_model import BlueLM, Shape
from tools.nano_pretrain import Recipe, pretrain
from tools.nano_tokenizer import Chat

ASSETS = Path(__file__).parent.parent / "assets"
FOLDER = ASSETS / "bluelm-nano"
PROVENANCE = ASSETS / "bluelm-nano.provenance.json"
PROVEN_LOSSES = 20


class Provenance(BaseModel):
    """Where bluelm-nano came from: enough to tell whether the generator still makes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    corpus_sha256: str
    dialogues: int
    parameters: int
    steps: int
    first_losses: list[float]
    last_loss: float
    files: dict[str, str]
    versions: dict[str, str]
    license: str = "Apache-2.0"


def build(folder: Path, recipe: Recipe) -> Provenance:
    """Make the model from nothing but the generator and write it into `folder`."""
    shape = Shape()
    corpus = list(nano_corpus.dialogues(recipe.dialogues))
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer_model = nano_tokenizer.train(corpus)
    (folder / "tokenizer.model").write_bytes(tokenizer_model)
    chat = Chat(folder / "tokenizer.model")
    examples = [chat.example(dialogue.turns) for dialogue in corpus]
    model = BlueLM(shape, seed=recipe.seed)
    losses = pretrain(model, examples, recipe, steps=recipe.steps, progress=_progress(recipe.steps))
    nano_files.write(folder, model, shape, tokenizer_model)
    return Provenance(
        corpus_sha256=nano_corpus.sha256(corpus),
        dialogues=recipe.dialogues,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        steps=recipe.steps,
        first_losses=[round(loss, 6) for loss in losses[:PROVEN_LOSSES]],
        last_loss=round(sum(losses[-100:]) / len(losses[-100:]), 4),
        files=nano_files.digests(folder),
        versions={name: version(name) for name in ("torch", "sentencepiece")},
    )


def first_losses(folder: Path, corpus: Sequence[Dialogue], recipe: Recipe) -> list[float]:
    """The first pretraining losses, from the corpus and the tokenizer in `folder`."""
    chat = Chat(folder / "tokenizer.model")
    examples = [chat.example(dialogue.turns) for dialogue in corpus]
    model = BlueLM(Shape(), seed=recipe.seed)
    return pretrain(model, examples, recipe, steps=PROVEN_LOSSES, progress=lambda _step, _loss: None)


def differences(folder: Path, known: Provenance, recipe: Recipe) -> list[str]:
    """What differs from the provenance, in words; empty if nothing does."""
    found = []
    corpus = list(nano_corpus.dialogues(recipe.dialogues))
    if nano_corpus.sha256(corpus) != known.corpus_sha256:
        found.append("the generator writes another corpus")
    if nano_files.digests(folder) != known.files:
        found.append("the files are not the ones recorded")
    gap = max(abs(a - b) for a, b in zip(first_losses(folder, corpus, recipe), known.first_losses, strict=True))
    if gap > 1e-4:
        found.append(f"a pretraining loss differs by {gap:.6f}")
    return found


def read_provenance() -> Provenance:
    """The committed provenance of `assets/bluelm-nano`."""
    return Provenance.model_validate_json(PROVENANCE.read_text(encoding="utf-8"))


def _progress(steps: int) -> Callable[[int, float], None]:
    started = time.monotonic()

    def show(step: int, loss: float) -> None:
        if step % 20 == 0 or step == steps - 1:
            left = (time.monotonic() - started) / (step + 1) * (steps - step - 1)
            print(f"\rstep {step + 1}/{steps}  loss {loss:.3f}  {left:.0f} s left   ", end="", flush=True)

    return show


def main() -> int:
    """Entry point of `python -m tools.make_nano`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the provenance instead of rebuilding")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    options = parser.parse_args()
    if options.check:
        found = differences(options.out, read_provenance(), Recipe())
        print("\n".join(found) or "bluelm-nano is what the generator makes")
        return 1 if found else 0
    provenance = build(options.out, Recipe(steps=options.steps))
    target = PROVENANCE if options.out == FOLDER else options.out.with_name(options.out.name + ".provenance.json")
    target.write_text(provenance.model_dump_json(indent=2) + "\n", encoding="utf-8")
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
