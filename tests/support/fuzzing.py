"""`python -m tests.support.fuzzing --seed S --cases N`: import spoilt model folders, and judge what comes of each.

Good are a refusal (a typed Problem) that leaves nothing, and an import that is what its source says, as read here by
other means. Memory is limited; a case that takes too long ends the process. Prints one line of JSON.
"""

import argparse
import collections
import faulthandler
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from core.errors import Problem
from core.ml.convert import convert
from core.ml.records import Imported
from tests.support import bluelm, mutations

CASE_S = 60
SPARE_BYTES = 2**30
"""What a case may allocate beyond what the process has; tiny folders need a few hundredths of it."""
TEXTS = ("今天天气很好，你是谁？", " hello  world 123\n", "😀▁ ▁", "[|Human|]:</s>")


class Wrong(Exception):
    """An import that is not what its source says, or a refusal that left something."""


def originals(folder: Path) -> dict[str, tuple[Path, str]]:
    """Lay sound folders of every container and layout, with the fingerprints of their imports."""
    sharded = bluelm.write(folder / "sharded")
    rows = json.loads((sharded / "config.json").read_text())["vocab_size"]
    weights = bluelm.tensors(bluelm.Shape(), rows=rows)
    made = {"sharded": sharded}
    for kind in ("single", "safe"):
        made[kind] = shutil.copytree(sharded, folder / kind, ignore=shutil.ignore_patterns("pytorch_model*"))
    torch.save(weights, made["single"] / "pytorch_model.bin")
    save_file(weights, made["safe"] / "model.safetensors", metadata={"format": "pt"})
    made["llama"] = imported(sharded, folder / "llama", max_shard_bytes=100_000).path
    (made["llama"] / "import.json").unlink()
    (made["llama"] / "chat_template.jinja").write_text("{{ messages[0].content }}")
    return {
        kind: (path, imported(path, folder / f"{kind}-base").record.fingerprint) for kind, path in sorted(made.items())
    }


def imported(source: Path, target: Path, *, max_shard_bytes: int = 2**30) -> Imported:
    """Import with nobody watching."""
    return convert(source, target, name="x", progress=lambda done, total: None, max_shard_bytes=max_shard_bytes)


def case(number: int, originals: dict[str, tuple[Path, str]], work: Path) -> tuple[str, list[str]]:
    """Spoil one folder and import it; returns the verdict and what was done to it.

    Raises:
        Wrong: The verdict is bad.
    """
    rng = random.Random(number)
    kind = rng.choice(list(originals))
    original, fingerprint = originals[kind]
    source, bases = shutil.copytree(original, work / "source"), work / "bases"
    done = [kind, *mutations.spoil(source, rng)]
    try:
        base = imported(source, bases / "x", max_shard_bytes=rng.choice((2**30, 30_000)))
    except Problem as problem:
        if bases.exists() and (left := [path.name for path in bases.iterdir()]):
            raise Wrong(f"refused ({problem.code}), and left {left}") from problem
        if not problem.detail or str(work) in problem.detail:
            raise Wrong(f"refused without a reason, or with a path: {problem.detail!r}") from problem
        return problem.code, done
    if [path.name for path in bases.iterdir()] != ["x"]:
        raise Wrong("imported, and left something beside the base")
    if base.record.fingerprint == fingerprint:
        return "imported, equal to the clean import", done
    _compare(source, base) if not base.record.already_llama else _compare_copies(source, base)
    return "imported, as its source says", done


def _compare(source: Path, base: Imported) -> None:
    """Hold a converted base against its source, read by torch alone."""
    theirs = _weights(source)
    ours: dict[str, torch.Tensor] = {}
    for path in base.path.glob("*.safetensors"):
        ours |= load_file(path)
    weight, bias = (theirs.pop(f"model.embed_layer_norm.{name}").float() for name in ("weight", "bias"))
    table = theirs.pop("model.embed_tokens.weight").float()
    eps = json.loads((source / "config.json").read_bytes()).get("rms_norm_eps", 1e-6)
    exact = torch.nn.functional.layer_norm(table, (table.shape[1],), weight, bias, eps)
    folded = ours.pop("model.embed_tokens.weight").float()
    # One unit of bf16 is 2^-8 of a value; where terms cancel, what fp32 can tell of them.
    if not torch.allclose(folded, exact, rtol=2**-7, atol=1e-5 * float(exact.abs().max())):
        raise Wrong("a folded row is not the LayerNorm's")
    theirs = {name: tensor for name, tensor in theirs.items() if not name.endswith("rotary_emb.inv_freq")}
    if ours.keys() != theirs.keys() or not all(torch.equal(ours[name], theirs[name]) for name in ours):
        raise Wrong("a tensor is not its source's")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in ours.values()):
        raise Wrong("a value is no number")
    if base.record.segment_encoder == "tokenizers":
        processor = sentencepiece.SentencePieceProcessor(model_proto=(source / "tokenizer.model").read_bytes())
        tokenizer = Tokenizer.from_file(str(base.path / "tokenizer.json"))
        tokenizer.encode_special_tokens = True
        for text in TEXTS:
            if processor.encode(text) != tokenizer.encode(text, add_special_tokens=False).ids:
                raise Wrong(f"{text!r} is tokenised otherwise")


def _weights(source: Path) -> dict[str, torch.Tensor]:
    safe = sorted(source.glob("model*.safetensors"))
    weights: dict[str, torch.Tensor] = {}
    for path in safe or sorted(source.glob("pytorch_model*.bin")):
        weights |= load_file(path) if safe else torch.load(path, weights_only=True)
    return weights


def _compare_copies(source: Path, base: Imported) -> None:
    for file in base.record.files:
        if (source / file.name).read_bytes() != (base.path / file.name).read_bytes():
            raise Wrong(f"{file.name} is no copy")
    for path in base.path.glob("*.safetensors"):
        if not all(bool(torch.isfinite(tensor).all()) for tensor in load_file(path).values()):
            raise Wrong("a value is no number")


def run(*, seed: int, cases: int) -> dict[str, Any]:
    """Run cases `seed` x 10^6 and up; the failures come with their numbers, so that each can be run alone."""
    verdicts: collections.Counter[str] = collections.Counter()
    failures: list[dict[str, Any]] = []
    slowest, began = 0.0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        made = originals(Path(name) / "originals")
        for number in range(seed * 10**6, seed * 10**6 + cases):
            work = Path(name) / str(number)
            work.mkdir()
            print(f"case {number}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback_later(CASE_S, exit=True)
            # Of each case anew: in the product each import has a process of its own.
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + SPARE_BYTES, resource.RLIM_INFINITY))
            start = time.monotonic()
            try:
                verdict, _ = case(number, made, work)
                verdicts[verdict] += 1
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                failures.append({"case": number, "error": repr(error), "trace": traceback.format_exc()[-1500:]})
            slowest = max(slowest, time.monotonic() - start)
            faulthandler.cancel_dump_traceback_later()
            shutil.rmtree(work)
    return {
        "cases": cases,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "slowest_s": round(slowest, 1),
        "verdicts": dict(verdicts.most_common()),
        "failures": failures,
    }


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--cases", type=int, required=True)
    print(json.dumps(run(**vars(parser.parse_args()))))
