"""Our trainer as a job runs it, on a base and rows of a bench's making: no files but its scratch, nothing told."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from transformers import PreTrainedModel, set_seed

from core.domain import steps as counting
from core.domain.training import TrainSpec
from core.ml import model as models
from worker.trainer import loop
from worker.trainer.checkpoints import Best, Shelf
from worker.trainer.events import Events
from worker.trainer.loop import LoraTrainer
from worker.trainer.rows import Row
from worker.trainer.wishes import Wishes


def ours(
    base: PreTrainedModel, rows: Sequence[Row], *, spec: TrainSpec, device: Literal["cpu", "cuda"], folder: Path
) -> LoraTrainer:
    """Put a fresh LoRA on `base` and make a trainer for it; `trainer.model.unload()` gives the base back."""
    steps = counting.count(len(rows), spec)
    set_seed(spec.seed)
    lora = models.Lora(
        r=spec.r, lora_alpha=spec.lora_alpha, lora_dropout=spec.lora_dropout, target_modules=spec.target_modules
    )
    shelf = Shelf(folder, attempt=1, facts={})
    return LoraTrainer(
        models.add_lora(base, lora),
        args=loop.arguments(spec, steps, device=device, scratch=shelf.scratch),
        rows=rows,
        validation=(),
        events=Events(spec=spec, steps=steps, validates=False, best=Best(), wishes=Wishes(), tell=lambda _: None),
        shelf=shelf,
        base_name="bench",
    )
