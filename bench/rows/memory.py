"""M1: the memory that a plan promises, against what training takes: four configurations of the real trainer.

Figures with `used` are of the process, as the driver counts it, and null on a CPU: it has no device to ask.
On CUDA the peer is torch's own high-water mark. A CPU has none of its own; there the tensors that autograd keeps are
counted and compared with the formula's, without what a backward pass adds for a moment.
"""

import gc
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedModel

from bench import data, harness, shapes, trainers
from bench.harness import Options, Peer, Result
from bench.kept import Kept
from bench.shapes import SHAPES, Shape
from core.domain import memory, orders
from core.domain.memory import Dimensions, Load, Memory, Precision
from core.domain.training import TrainSpec
from core.ml import attention
from core.ml import model as models
from core.text import packing
from core.text.examples import Example
from worker.trainer import rows as flat
from worker.trainer.loop import LoraTrainer
from worker.trainer.rows import Row

STEPS: Final = 4
GIB: Final = 2**30
CONFIGURATIONS: Final[dict[str, dict[str, Any]]] = {
    "exact_16": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "packed_2048": {"packing": "packed", "pack_length": 2048},
    "packed_4096_r64": {"packing": "packed", "pack_length": 4096, "r": 64},
    "short_4_qv": {"per_device_train_batch_size": 4, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0},
}


@dataclass(frozen=True, kw_only=True)
class _Taken:
    """What a training took, and what the plan says of the same; `reserved` and `used` are None on a CPU.

    `used` is what the driver says of the whole device: the allocator's reserve and CUDA's own, so nobody else may use it.
    """

    planned: int
    measured: int
    reserved: int | None = None
    used: int | None = None
    planned_used: int | None = None

    @property
    def ratio(self) -> float:
        return self.planned / self.measured


@dataclass(frozen=True, kw_only=True)
class _Peak:
    """One configuration."""

    name: str
    taken: _Taken
    memory: Memory
    largest: Load
    seconds: float


def m1(options: Options) -> Result:
    """Train a few steps of each configuration; the row's figure is the one that is furthest from its estimate."""
    shape = SHAPES[options.shape]
    began = time.perf_counter()
    attention.register()
    base = shapes.build(
        shape,
        device=options.device,
        dtype=models.dtype_for(options.device),
        seed=options.seed,
        attention_name=attention.NAME,
    )
    built = time.perf_counter() - began
    peaks = [_peak(name, fields, base, shape=shape, options=options) for name, fields in CONFIGURATIONS.items()]
    worst = max(peaks, key=lambda peak: abs(peak.taken.ratio - 1))
    return Result(
        row="M1",
        figure=worst.taken.planned / GIB,
        unit="GiB",
        peer=Peer(name=f"measured peak of {worst.name}", figure=worst.taken.measured / GIB),
        ratio=worst.taken.ratio,
        warmup_s=built,
        n=len(peaks) * (options.steps or STEPS),
        spread=harness.spread([peak.taken.ratio for peak in peaks]),
        device=torch.cuda.get_device_name() if options.device == "cuda" else harness.processor(),
        shape=shape.name,
        more={"worst_error": abs(worst.taken.ratio - 1)} | {key: value for peak in peaks for key, value in _said(peak)},
    )


def _peak(name: str, fields: dict[str, Any], base: PreTrainedModel, *, shape: Shape, options: Options) -> _Peak:
    """Train some steps and read the high-water marks; the base is bare again afterwards."""
    given = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1} | fields
    steps = options.steps or STEPS
    spec = TrainSpec(dataset="ds", name="bench", max_steps=steps, seed=options.seed, **given)
    rows = _rows(spec, shape=shape)
    loads = [load for step in orders.steps(len(rows), spec) for load in _loads([rows[at] for at in step])]
    on_gpu = options.device == "cuda"
    precision: Precision = "bf16" if on_gpu else "fp32"
    planned = memory.estimate(_dimensions(shape), spec, loads=loads, evaluated=(), precision=precision)
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainers.ours(base, rows, spec=spec, device=options.device, folder=Path(folder))
        if on_gpu:
            trainer.train()
            taken = _taken_on_gpu(planned)
        else:
            taken = _kept_on_cpu(trainer, planned, spec=spec, shape=shape, loads=loads)
        trainer.model.unload()
    largest = max(loads, key=lambda load: load.tokens)
    return _Peak(name=name, taken=taken, memory=planned, largest=largest, seconds=time.perf_counter() - began)


def _taken_on_gpu(planned: Memory) -> _Taken:
    free, total = torch.cuda.mem_get_info()
    return _Taken(
        planned=planned.tensors_bytes,
        measured=torch.cuda.max_memory_allocated(),
        reserved=torch.cuda.max_memory_reserved(),
        used=total - free,
        planned_used=planned.total_bytes,
    )


def _kept_on_cpu(
    trainer: LoraTrainer, planned: Memory, *, spec: TrainSpec, shape: Shape, loads: Sequence[Load]
) -> _Taken:
    """Weights and optimizer as they are, and what autograd keeps of the largest micro-batch, its log-probabilities too."""
    with Kept(trainer.model) as kept:
        trainer.train()
    base = _dimensions(shape)
    static = planned.tensors_bytes - planned.activations_bytes
    formula = max(
        memory.kept_bytes(base, spec, load, "fp32") + memory.FLOAT * load.labels * base.vocabulary for load in loads
    )
    return _Taken(planned=static + formula, measured=static + kept.peak_bytes)


def _loads(rows: Sequence[Row]) -> list[Load]:
    return [
        Load(tokens=one.tokens, labels=one.labels, slots=len(one.lengths) * max(one.lengths))
        for one in flat.batch(rows).rows
    ]


def _rows(spec: TrainSpec, *, shape: Shape) -> list[Row]:
    """Samples with the tutorial's lengths, as many as the steps draw, packed if the spec says so."""
    steps = spec.max_steps or STEPS
    if spec.packing == "exact":
        count = steps * spec.per_device_train_batch_size * spec.gradient_accumulation_steps
        return [flat.row(one.input_ids, one.labels) for one in data.samples(count, shape=shape, seed=spec.seed)]
    drawn = data.samples(min(steps * spec.pack_length // 32, 3000), shape=shape, seed=spec.seed)
    examples = [
        Example(input_ids=one.input_ids, labels=one.labels, line=line) for line, one in enumerate(drawn, start=1)
    ]
    groups = packing.first_fit([len(example) for example in examples], pack_length=spec.pack_length)[:steps]
    packed = [packing.flatten([examples[at] for at in group]) for group in groups]
    return [flat.row(one.input_ids_T, one.labels_T, starts=one.starts_S) for one in packed]


def _dimensions(shape: Shape) -> Dimensions:
    return Dimensions(
        hidden=shape.hidden,
        intermediate=shape.intermediate,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.heads,
        head_dim=shape.hidden // shape.heads,
        vocabulary=shape.rows,
        parameters=shape.gemm_parameters + shape.rows * shape.hidden + (2 * shape.layers + 1) * shape.hidden,
    )


def _said(peak: _Peak) -> list[tuple[str, float | str | None]]:
    """Name a configuration's figures: GiB, and what the largest micro-batch was."""
    taken, planned = peak.taken, peak.memory
    sizes = {
        "planned": taken.planned,
        "measured": taken.measured,
        "reserved": taken.reserved,
        "used": taken.used,
        "planned_used": taken.planned_used,
        "weights": planned.weights_bytes,
        "adapter": planned.adapter_bytes + planned.gradients_bytes + planned.optimizer_bytes,
        "activations": planned.activations_bytes,
    }
    said: dict[str, float | str | None] = {
        f"{peak.name}_{what}_gib": None if size is None else size / GIB for what, size in sizes.items()
    }
    said |= {
        f"{peak.name}_ratio": taken.ratio,
        f"{peak.name}_used_ratio": taken.planned_used / taken.used if taken.planned_used and taken.used else None,
        f"{peak.name}_largest_tokens": peak.largest.tokens,
        f"{peak.name}_largest_labels": peak.largest.labels,
        f"{peak.name}_seconds": peak.seconds,
    }
    return list(said.items())
