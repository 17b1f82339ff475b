"""An adapter trained elsewhere: a released checkpoint, and a LoRA taught on the oracle by hand, saved as old peft does."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from tests.support.oracle import BlueLM

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
R, ALPHA = 8, 16
NEW_TOKENS = 16


@dataclass(frozen=True)
class Elsewhere:
    """The checkpoint as it was released, in fp32, and the LoRA that was taught on it."""

    model: BlueLM
    lora: Mapping[str, Tensor]

    def greedy(self, prompts: Sequence[Sequence[int]], renderer: Renderer) -> list[list[int]]:
        """Answer by the oracle with the LoRA, every token from the start; without the token that ends an answer."""
        adapted, ends = with_lora(self.model, self.lora), renderer.eos_ids
        with torch.no_grad():
            answers = [
                oracle.greedy(adapted, [prompt], max_new_tokens=NEW_TOKENS, ends=ends, use_cache=False)[0]
                for prompt in prompts
            ]
        return [[token for token in answer if token not in ends] for answer in answers]


def with_lora(model: BlueLM, lora: Mapping[str, Tensor]) -> BlueLM:
    """W + alpha / r · B A for every adapted layer."""
    adapted = dict(model.weights)
    for name in lora:
        if name.endswith(".lora_A.weight"):
            path = name.removesuffix(".lora_A.weight")
            product = lora[f"{path}.lora_B.weight"] @ lora[name]
            adapted[f"{path}.weight"] = model.weights[f"{path}.weight"] + ALPHA / R * product
    return replace(model, weights=adapted)


def teach(model: BlueLM, answers: Mapping[str, str], renderer: Renderer, *, epochs: int) -> Elsewhere:
    """Teach a LoRA some answers, by plain gradient steps on the oracle."""
    rows = [(prompts(renderer, [question])[0], _answer(renderer, question, answers[question])) for question in answers]
    dice = torch.Generator().manual_seed(3)
    lora: dict[str, Tensor] = {}
    for name, weight in model.weights.items():
        path = name.removesuffix(".weight")
        if path.rpartition(".")[2] in MODULES:
            lora[f"{path}.lora_A.weight"] = torch.randn(R, weight.shape[1], generator=dice) / R
            lora[f"{path}.lora_B.weight"] = torch.zeros(weight.shape[0], R)
    adam = torch.optim.Adam([tensor.requires_grad_() for tensor in lora.values()], lr=3e-3)
    for _ in range(epochs):
        for prompt, answer in rows:
            adam.zero_grad()
            found = oracle.logits(with_lora(model, lora), torch.tensor([prompt + answer[:-1]]))[0, len(prompt) - 1 :]
            torch.autograd.backward([torch.nn.functional.cross_entropy(found, torch.tensor(answer))])
            adam.step()
    return Elsewhere(model=model, lora={name: tensor.detach() for name, tensor in lora.items()})


def save(folder: Path, taught: Elsewhere) -> Path:
    """Write what peft 0.5.0, which the official script pins, writes with safe_serialization; and what lies beside it."""
    folder.mkdir(parents=True)
    save_file({f"base_model.model.{name}": tensor for name, tensor in taught.lora.items()}, folder / loras.WEIGHTS)
    (folder / loras.CONFIG).write_text(json.dumps(PEFT_0_5, indent=2))
    (folder / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ cycler.__init__.__globals__.os.system(1) }}"}')
    return folder


def answers_of_plain_peft(
    base_dir: Path, adapter: Path, asked: Sequence[Sequence[int]], renderer: Renderer
) -> list[list[int]]:
    """Answer by transformers and peft, which load the adapter's files as they are."""
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, adapter).eval()
    answers = []
    for prompt in asked:
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


def prompts(renderer: Renderer, questions: Sequence[str], *, system: str | None = None) -> list[list[int]]:
    """Questions as ids."""
    return [[*renderer.prompt([Turn("user", question)], system=system)] for question in questions]


def _answer(renderer: Renderer, question: str, answer: str) -> list[int]:
    """The ids of an answer and its end: what a longer conversation has more than the question alone."""
    asked = len(prompts(renderer, [question])[0])
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
