"""An adapter trained elsewhere: a released checkpoint, and a LoRA taught on the oracle by hand, saved as old peft does."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from core.domain.datasets import Turn
from core.text.chat import Renderer
from tests.support import loras, oracle

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
R, ALPHA = 8, 16
NEW_TOKENS = 16


@dataclass(frozen=True)
class Elsewhere:
    """The checkpoint as it was released, in fp32, and the LoRA that was taught on it."""

    weights: Mapping[str, Tensor]
    config: Mapping[str, Any]
    lora: Mapping[str, Tensor]

    def greedy(self, prompt: Sequence[int], *, end: Collection[int]) -> list[int]:
        """Answer by the oracle with the LoRA, every token from the start; without the token that ends it."""
        model = _blue_lm(with_lora(self.weights, self.lora), self.config)
        (answer,) = oracle.greedy(model, [prompt], max_new_tokens=NEW_TOKENS, ends=frozenset(end), use_cache=False)
        return [token for token in answer if token not in end]


def with_lora(weights: Mapping[str, Tensor], lora: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """W + alpha / r · B A for every adapted layer."""
    adapted = dict(weights)
    for name in lora:
        if name.endswith(".lora_A.weight"):
            path = name.removesuffix(".lora_A.weight")
            product = lora[f"{path}.lora_B.weight"] @ lora[name]
            adapted[f"{path}.weight"] = weights[f"{path}.weight"] + ALPHA / R * product
    return adapted


def teach(
    weights: Mapping[str, Tensor],
    config: Mapping[str, Any],
    answers: Mapping[str, str],
    renderer: Renderer,
    *,
    epochs: int,
) -> Elsewhere:
    """Teach a LoRA some answers, by plain gradient steps on the oracle."""
    rows = [(_prompt(renderer, question), _answer(renderer, question, answer)) for question, answer in answers.items()]
    dice = torch.Generator().manual_seed(3)
    lora: dict[str, Tensor] = {}
    for name, weight in weights.items():
        path = name.removesuffix(".weight")
        if path.rpartition(".")[2] in MODULES:
            lora[f"{path}.lora_A.weight"] = torch.randn(R, weight.shape[1], generator=dice) / R
            lora[f"{path}.lora_B.weight"] = torch.zeros(weight.shape[0], R)
    adam = torch.optim.Adam([tensor.requires_grad_() for tensor in lora.values()], lr=3e-3)
    for _ in range(epochs):
        for prompt, answer in rows:
            adam.zero_grad()
            model = _blue_lm(with_lora(weights, lora), config)
            found = oracle.logits(model, torch.tensor([prompt + answer[:-1]]))[0, len(prompt) - 1 :]
            torch.autograd.backward([torch.nn.functional.cross_entropy(found, torch.tensor(answer))])
            adam.step()
    return Elsewhere(weights=weights, config=config, lora={name: tensor.detach() for name, tensor in lora.items()})


def save(folder: Path, taught: Elsewhere) -> Path:
    """Write what peft 0.5.0, which the official script pins, writes with safe_serialization; and what lies beside it."""
    folder.mkdir(parents=True)
    save_file({f"base_model.model.{name}": tensor for name, tensor in taught.lora.items()}, folder / loras.WEIGHTS)
    (folder / loras.CONFIG).write_text(json.dumps(PEFT_0_5, indent=2))
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ cycler.__init__.__globals__.os.system(1) }}"}')
    return folder


def answers_of_plain_peft(
    base_dir: Path, adapter: Path, prompts: Sequence[Sequence[int]], renderer: Renderer
) -> list[list[int]]:
    """Answer by transformers and peft, which load the adapter's files as they are."""
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter).eval()
    answers = []
    for prompt in prompts:
        output = model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=sorted(renderer.eos_ids),
        )
        answers.append([token for token in output[0, len(prompt) :].tolist() if token not in renderer.eos_ids])
    return answers


def text_of(renderer: Renderer, ids: Sequence[int]) -> str:
    """Decode an answer as the service does."""
    decoder = renderer.decoder()
    return decoder.feed(list(ids)) + decoder.finish()


def _blue_lm(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> oracle.BlueLM:
    return oracle.BlueLM(weights=weights, heads=config["num_attention_heads"], eps=config["rms_norm_eps"])


def _prompt(renderer: Renderer, question: str) -> list[int]:
    return [*renderer.prompt([Turn("user", question)], system=None)]


def _answer(renderer: Renderer, question: str, answer: str) -> list[int]:
    """The ids of an answer and its end: what a longer conversation has more than the question alone."""
    asked = len(_prompt(renderer, question))
    turns = [Turn("user", question), Turn("assistant", answer), Turn("user", "x")]
    longer = [*renderer.prompt(turns, system=None)]
    return longer[asked : longer.index(2, asked) + 1]


PEFT_0_5: dict[str, Any] = {
    "auto_mapping": None,
    "base_model_name_or_path": "/data/BlueLM-7B-Chat",
    "bias": "none",
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layers_pattern": None,
    "layers_to_transform": None,
    "lora_alpha": ALPHA,
    "lora_dropout": 0.05,
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": R,
    "revision": None,
    "target_modules": ["up_proj", "o_proj", "q_proj", "gate_proj", "down_proj", "v_proj", "k_proj"],
    "task_type": "CAUSAL_LM",
}
