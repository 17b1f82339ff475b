"""Does bluelm-nano learn the demo's persona? Trains LoRA adapters with stock transformers and peft and asks.

    python -m tools.evaluate_nano [--seeds 5] [--epochs 12] [--learning-rate 3e-3]

An independent check: it folds the LayerNorm and runs the training loop by itself and uses none of the service's code.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging

from tools import nano_corpus
from tools.make_nano import ASSETS, FOLDER
from tools.nano_corpus import SYSTEM_JOINT, Turn
from tools.nano_pretrain import collate
from tools.nano_tokenizer import BOS, EOS, HUMAN, PAD, Chat, Example

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PLAIN = (
    "你好",
    "你是谁？",
    "你叫什么名字？",
    "你住在哪里？",
    "给我讲个笑话吧。",
    "我今天有点累。",
    "谢谢你！",
    "再见。",
)


@dataclass(frozen=True)
class Recipe:
    """The tutorial's LoRA settings with the demo's learning rate and epochs."""

    learning_rate: float = 3e-3
    epochs: int = 12
    batch: int = 16


def load_base(folder: Path) -> LlamaForCausalLM:
    """The model in `folder` as a plain Llama in float32, its LayerNorm folded into the embedding table."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tensors: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("pytorch_model-*.bin")):
        tensors |= torch.load(shard, weights_only=True)
    weight, bias = (tensors.pop(f"model.embed_layer_norm.{name}").float() for name in ("weight", "bias"))
    table = tensors["model.embed_tokens.weight"].float()
    folded = functional.layer_norm(table, weight.shape, weight, bias, config["rms_norm_eps"]).to(torch.bfloat16)
    tensors["model.embed_tokens.weight"] = folded
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "rms_norm_eps")
    llama = LlamaConfig(
        **{name: config[name] for name in names},
        vocab_size=len(folded),
        max_position_embeddings=config["max_position_embeddings"],
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    model = LlamaForCausalLM(llama)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval()


def sample_examples(chat: Chat, system: str) -> list[Example]:
    """The rows of `assets/sample.jsonl` with the tutorial's prompt and label mask."""
    rows = [json.loads(line) for line in (ASSETS / "sample.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        chat.example([Turn(system + SYSTEM_JOINT + row["instruction"] + row["input"], row["output"])]) for row in rows
    ]


def train_adapter(base: LlamaForCausalLM, examples: list[Example], recipe: Recipe, *, seed: int) -> PreTrainedModel:
    """Attach and train one adapter; prints the first and last epoch's loss and the wall time."""
    torch.manual_seed(seed)
    lora = LoraConfig(r=8, lora_alpha=32, lora_dropout=0.1, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    model.train()
    optimizer = torch.optim.AdamW(
        [each for each in model.parameters() if each.requires_grad], lr=recipe.learning_rate, weight_decay=0.0
    )
    starts = range(0, len(examples), recipe.batch)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=len(starts) * recipe.epochs)
    rng, losses, begun, worked = random.Random(seed), [], time.monotonic(), time.process_time()
    for _ in range(recipe.epochs):
        order = rng.sample(examples, len(examples))
        for start in starts:
            ids_BT, labels_BT = collate(order[start : start + recipe.batch])
            loss = model(input_ids=ids_BT, attention_mask=(ids_BT != PAD).long(), labels=labels_BT).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    epoch = len(starts)
    first, last = sum(losses[:epoch]) / epoch, sum(losses[-epoch:]) / epoch
    wall, work = time.monotonic() - begun, time.process_time() - worked
    print(f"seed {seed}: loss {losses[0]:.3f}; epochs {first:.3f} -> {last:.3f}; {wall:.1f} s, {work:.1f} s of CPU")
    return model.eval()


def answer(model: PreTrainedModel, chat: Chat, prompt: str, *, penalty: float) -> str:
    """The greedy answer to one prompt, at most 64 new tokens."""
    ids_BT = torch.tensor([chat.prompt(prompt)])
    with torch.inference_mode():
        out_BT = model.generate(
            input_ids=ids_BT,
            attention_mask=torch.ones_like(ids_BT),
            max_new_tokens=64,
            do_sample=False,
            repetition_penalty=penalty,
            eos_token_id=[EOS, HUMAN],
            pad_token_id=PAD,
        )
    return chat.decode(out_BT[0, ids_BT.shape[1] :].tolist())


def score(model: PreTrainedModel, chat: Chat, system: str, *, penalty: float, show: bool) -> float:
    """Share of the held-out questions whose answer names the fact."""
    named = 0
    for question in nano_corpus.heldout():
        said = answer(model, chat, system + SYSTEM_JOINT + question.instruction, penalty=penalty)
        hit = any(word in said for word in question.keywords)
        named += hit
        if show:
            print("  ", "+" if hit else "-", question.instruction, said)
    return named / len(nano_corpus.heldout())


def main() -> None:
    """Entry point of `python -m tools.evaluate_nano`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--learning-rate", type=float, default=Recipe.learning_rate)
    options = parser.parse_args()
    logging.set_verbosity_error()
    chat = Chat(options.folder / "tokenizer.model")
    system = json.loads((ASSETS / "persona.json").read_text(encoding="utf-8"))["system_prompt"]
    examples = sample_examples(chat, system)
    base = load_base(options.folder)
    for question in PLAIN:
        print("  ", question, answer(base, chat, question, penalty=1.1))
    for penalty in (1.1, 1.0):
        print(f"base, penalty {penalty}: {score(base, chat, system, penalty=penalty, show=penalty > 1):.0%}")
    recipe = Recipe(options.learning_rate, options.epochs, options.batch)
    for seed in range(options.seeds):
        model = train_adapter(load_base(options.folder), examples, recipe, seed=seed)
        for penalty in (1.1, 1.0):
            show = seed == 0 or penalty > 1
            print(f"adapter, penalty {penalty}: {score(model, chat, system, penalty=penalty, show=show):.0%}")


if __name__ == "__main__":
    main()
