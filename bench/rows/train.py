"""Training rows: T1, the exact 16-sample step of the tutorial, against the tutorial's own recipe."""

import gc
import os
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from bench import ceilings, data, harness, shapes, trainers
from bench.harness import Block, Options, Peer, Result, StepClock
from bench.peers import notebook
from bench.shapes import SHAPES, Shape
from core.domain.training import TrainSpec
from core.ml import attention
from core.ml import model as models
from worker.trainer import rows as flat
from worker.trainer.loop import LoraTrainer

SAMPLES_PER_STEP: Final = 16
PARITY_STEPS: Final = 20
ORDER: Final = ("ours", "peer", "ours")


def t1(options: Options) -> Result:
    """Measure samples/s of the exact step, dropout 0.1 on both sides; parity at dropout 0 over 20 steps."""
    shape = SHAPES[options.shape]
    if options.device == "cpu":
        # Pinned, so that ratios can be compared with their own history; a tiny model gains nothing from a second core.
        torch.set_num_threads(1 if shape.name == "tiny" else os.cpu_count() or 1)
    bench = _Bench(shape=shape, device=options.device, seed=options.seed, steps=options.steps or shape.steps)
    base = bench.base()
    blocks: dict[str, list[Block]] = {"ours": [], "peer": []}
    for side in ORDER:
        blocks[side].append(bench.ours(base) if side == "ours" else bench.peer(base))
    ours = [seconds for block in blocks["ours"] for seconds in block.seconds]
    peer = [seconds for block in blocks["peer"] for seconds in block.seconds]
    figure = SAMPLES_PER_STEP / statistics.median(ours)
    peer_figure = SAMPLES_PER_STEP / statistics.median(peer)
    tokens = bench.tokens_per_step()
    limit = bench.limit(tokens)
    del base
    gc.collect()
    return Result(
        row="T1",
        figure=figure,
        unit="samples/s",
        peer=Peer(name="tutorial notebook, verbatim", figure=peer_figure),
        ratio=figure / peer_figure,
        limit=limit,
        of_limit=figure / limit if limit else None,
        tokens_per_step=tokens,
        warmup_s=blocks["ours"][0].warmup_s,
        n=len(ours),
        spread=harness.spread(ours),
        parity=parity(options),
        device=torch.cuda.get_device_name() if options.device == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        shape=shape.name,
        more={
            "ms_per_step": 1000 * statistics.median(ours),
            "peer_ms_per_step": 1000 * statistics.median(peer),
            "peer_spread": harness.spread(peer),
        },
    )


def parity(options: Options) -> dict[str, float]:
    """Train 20 steps at dropout 0 on both sides and compare every loss, and the first gradient (row T1p).

    The 7b shape is compared at `nano`: parity is about arithmetic, and float32 copies of 7B would not fit twice.
    """
    shape = SHAPES["nano" if options.shape == "7b" else options.shape]
    bench = _Bench(shape=shape, device=options.device, seed=options.seed, steps=PARITY_STEPS, dropout=0.0)
    ours, theirs = bench.losses(padded=False), bench.losses(padded=True)
    gradient, their_gradient = bench.first_gradient(padded=False), bench.first_gradient(padded=True)
    return {
        "steps": float(len(ours)),
        "loss_rel": max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True)),
        "gradient_cosine": float(torch.nn.functional.cosine_similarity(gradient, their_gradient, dim=0)),
    }


class _Clocked(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    def __init__(self, clock: StepClock) -> None:
        self._clock = clock

    def on_train_begin(self, *_: object, **__: object) -> None:
        self._clock.start()

    def on_step_end(self, *_: object, **__: object) -> None:
        self._clock.stop()


@dataclass(frozen=True, kw_only=True)
class _Bench:
    """Both sides on the same samples in the same order: each draws from the sampler that Trainer makes of the seed."""

    shape: Shape
    device: Literal["cpu", "cuda"]
    seed: int
    steps: int
    dropout: float = 0.1

    @property
    def samples(self) -> Sequence[data.Sample]:
        return data.samples(SAMPLES_PER_STEP * (self.steps + 1), shape=self.shape, seed=self.seed)

    def base(self, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
        attention.register()
        return shapes.build(
            self.shape,
            device=self.device,
            dtype=dtype or models.dtype_for(self.device),
            seed=self.seed,
            attention_name=attention.NAME,
        )

    def ours(self, base: PreTrainedModel) -> Block:
        clock = StepClock(self._synchronize)
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._our_trainer(base, Path(folder), max_steps=self.steps + 1)
            trainer.add_callback(_Clocked(clock))
            trainer.train()
            trainer.model.unload()
        return clock.block

    def peer(self, base: PreTrainedModel) -> Block:
        clock = StepClock(self._synchronize)
        with tempfile.TemporaryDirectory() as folder, _Sdpa(base):
            trainer = notebook.trainer(
                self._halved(base),
                self.samples,
                folder=Path(folder),
                device=self.device,
                seed=self.seed,
                max_steps=self.steps + 1,
                callbacks=[_Clocked(clock)],
                dropout=self.dropout,
            )
            trainer.train()
            base.activation_checkpointing_disable()
            base.disable_input_require_grads()
            trainer.model.unload()
        return clock.block

    def losses(self, *, padded: bool) -> list[float]:
        """Train with a log at each step and return the losses."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._logged(padded=padded, folder=Path(folder), max_steps=self.steps)
            trainer.train()
            return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]

    def first_gradient(self, *, padded: bool) -> Tensor:
        """Return the gradient of the first optimizer step, all adapter tensors in a row."""
        kept = _FirstGradient()
        with tempfile.TemporaryDirectory() as folder:
            trainer = self._logged(padded=padded, folder=Path(folder), max_steps=1)
            trainer.add_callback(kept)
            trainer.train()
        return kept.gradient

    def tokens_per_step(self) -> float:
        return statistics.mean(len(sample.input_ids) for sample in self.samples) * SAMPLES_PER_STEP

    def limit(self, tokens: float) -> float | None:
        """Samples/s if a step cost its matrix products alone, at the rate measured for its token count."""
        if self.device != "cuda":
            return None
        measured = ceilings.measure(
            tokens=round(tokens), hidden=self.shape.hidden, intermediate=self.shape.intermediate
        )
        return SAMPLES_PER_STEP * measured.gemm_flops / (tokens * 4 * self.shape.gemm_parameters)

    def _logged(self, *, padded: bool, folder: Path, max_steps: int) -> Any:  # noqa: ANN401  (transformers.Trainer)
        if not padded:
            return self._our_trainer(self.base(), folder, max_steps=max_steps)
        base = self.base(dtype=torch.float32)
        base.set_attn_implementation("sdpa")
        return notebook.trainer(
            base,
            self.samples,
            folder=folder,
            device=self.device,
            seed=self.seed,
            max_steps=max_steps,
            dropout=0.0,
            checkpointing=False,
            logging_steps=1,
        )

    def _our_trainer(self, base: PreTrainedModel, folder: Path, *, max_steps: int) -> LoraTrainer:
        spec = TrainSpec(
            dataset="ds",
            name="bench",
            max_steps=max_steps,
            lora_dropout=self.dropout,
            seed=self.seed,
            logging_steps=1 if self.dropout == 0 else 10,
        )
        rows = [flat.row(sample.input_ids, sample.labels) for sample in self.samples]
        return trainers.ours(base, rows, spec=spec, device=self.device, folder=folder)

    def _halved(self, base: PreTrainedModel) -> PreTrainedModel:
        """The notebook's precision: fp16 on CUDA, as it is on the CPU."""
        return base.half() if self.device == "cuda" else base

    def _synchronize(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


class _FirstGradient(TrainerCallback):  # type: ignore[misc]
    gradient: Tensor

    def on_pre_optimizer_step(self, *_: object, model: torch.nn.Module, **__: object) -> None:
        parts = [p.grad.flatten().float().cpu() for p in model.parameters() if p.grad is not None]
        self.gradient = torch.cat(parts)


class _Sdpa:
    """Lend a base with plain sdpa attention; precision and attention are ours again afterwards."""

    def __init__(self, base: PreTrainedModel) -> None:
        self._base = base
        self._dtype = base.dtype

    def __enter__(self) -> None:
        self._base.set_attn_implementation("sdpa")

    def __exit__(self, *_: object) -> None:
        self._base.to(self._dtype)
        self._base.set_attn_implementation(attention.NAME)
