"""Real engines as processes, adapters for them to load, and what plain transformers and peft say they should answer."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaForCausalLM

from core.storage import bundles
from core.text.chat import Renderer
from tests.support import tiny_base

KEY = "engine-key-of-the-tests"
ROOT = Path(__file__).resolve().parents[2]
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Engine:
    url: str
    process: subprocess.Popen[str]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {KEY}"}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def running(base: Path, *flags: str, port: int = 0) -> Iterator[Engine]:
    """A serving engine; its log goes to the test's stderr."""
    key_file = base.parent / "engine.key"
    key_file.write_text(KEY + "\n")
    command = [sys.executable, "-m", "worker.engine", "--base-dir", str(base), "--served-name", "tiny"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--api-key-file", str(key_file), *flags],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, f"the engine ended with {process.wait()}"
        yield Engine(url=json.loads(line)["url"], process=process)
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                assert process.wait(30) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise


def endless(folder: Path, shape: tiny_base.Shape) -> Path:
    """A base whose answers don't end by themselves: its only end token is one that its head never favours."""
    tiny_base.make(folder, shape)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        # Logits of one row summing to nothing lose against the best of some 260 random ones.
        model.lm_head.weight[tiny_base.ROWS - 1] = 0
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tiny_base.ROWS - 1, "pad_token_id": 3}))
    return folder


def adapter(
    folder: Path,
    base: Path,
    *,
    seed: int,
    r: int = 4,
    alpha: int | None = None,
    modules: Sequence[str] = MODULES,
    std: float = 0.08,
) -> Path:
    """A sealed bundle with random weights on both sides, written by peft itself."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=r,
            lora_alpha=4 * r if alpha is None else alpha,
            target_modules=list(modules),
            init_lora_weights=False,
        )
        adapted = get_peft_model(model, config)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    parameter.normal_(std=std)
        adapted.save_pretrained(folder)
    bundles.seal(folder, {"template_hash": Renderer.load(base).template_hash})
    return folder


def overflowing(folder: Path, base: Path) -> Path:
    """A sealed bundle that can be loaded, and whose gate, up and down together leave the range of float32.

    In the other modules they would leave numbers that RMSNorm makes zeros of.
    """
    modules = ("gate_proj", "up_proj", "down_proj")
    return adapter(folder, base, seed=4, r=1, alpha=65_536, modules=modules, std=12_000)


class Solo:
    """What transformers' own `generate` answers, one request at a time, with each adapter loaded by plain peft."""

    def __init__(self, base: Path, adapters: Mapping[str, Path]) -> None:
        plain = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        self._base = plain.eval()
        self._adapted: dict[str, PeftModel] = {}
        for name, folder in adapters.items():
            own = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
            self._adapted[name] = PeftModel.from_pretrained(own, folder).eval()

    def greedy(self, prompt: Sequence[int], adapter: str | None, *, max_tokens: int, penalty: float = 1.0) -> list[int]:
        model = self._base if adapter is None else self._adapted[adapter]
        output = model.generate(
            input_ids=torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=max_tokens,
            repetition_penalty=penalty,
        )
        return [int(id_) for id_ in output[0, len(prompt) :]]
