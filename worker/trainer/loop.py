"""The training loop: transformers' Trainer, fed with flattened steps and losses over label tokens alone.

One batch of the data loader is one optimizer step; `training_step` walks its micro-batches. Trainer keeps what it does
well: order, schedule, clipping, resuming. Knows rows and a model; no text, no files but its checkpoints.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerControl
from typing_extensions import override

from core.domain.jobs import Phase
from core.domain.steps import Steps
from core.domain.training import TrainSpec
from core.ml import model as models
from worker.trainer import rows as flat
from worker.trainer.checkpoints import Best, Shelf
from worker.trainer.events import Events
from worker.trainer.failures import NotFinite
from worker.trainer.rows import Row, StepBatch
from worker.trainer.sampler import EpochOrder
from worker.trainer.wishes import StopAsked

STEPS_BETWEEN_CHECKS = 16
"""On CUDA, reading the loss waits for the device: look for a non-finite step this often, and before anything is kept."""


def arguments(spec: TrainSpec, steps: Steps, *, device: Literal["cpu", "cuda"], scratch: Path) -> TrainingArguments:
    """Spell a spec as Trainer's arguments.

    Trainer's own evaluating and saving are off: `Events` decides both by steps. A whole step is one batch, so
    `gradient_accumulation_steps` is 1 and its samples are in `per_device_train_batch_size`.
    """
    return TrainingArguments(
        output_dir=str(scratch),
        per_device_train_batch_size=steps.samples,
        gradient_accumulation_steps=1,
        num_train_epochs=spec.num_train_epochs,
        max_steps=spec.max_steps or -1,
        learning_rate=spec.learning_rate,
        lr_scheduler_type=spec.lr_scheduler_type,
        # As a count: transformers 5.23 reads 1.0 as one step, not as the whole training.
        warmup_steps=steps.warmup,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        logging_steps=spec.logging_steps,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        seed=spec.seed,
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        use_cache=False,
    )


class LoraTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped
    """Trains one adapter.

    Args:
        model: A base with a LoRA, reading rows through `core.ml.attention`.
        args: From `arguments`.
        rows: What an epoch consists of, one item a sample (or a packed row).
        validation: Rows whose loss is the evaluation, or none.
        events: Callbacks, and the best evaluation so far.
        shelf: Where checkpoints go.
        base_name: What the adapter's config calls its base.
    """

    def __init__(
        self,
        model: PeftModel,
        *,
        args: TrainingArguments,
        rows: Sequence[Row],
        validation: Sequence[Row],
        events: Events,
        shelf: Shelf,
        base_name: str,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=rows, data_collator=flat.batch, callbacks=[events])
        self.remove_callback(PrinterCallback)
        self._validation = flat.batch(validation) if validation else None
        self._events = events
        self._shelf = shelf
        self._base_name = base_name
        self.control: TrainerControl
        self._loss: Tensor = torch.zeros((), device=args.device)
        self._first_bad = torch.full((), torch.iinfo(torch.int64).max, device=args.device)

    @property
    def best(self) -> Best:
        """The best evaluation so far."""
        return self._events.best

    @override
    def training_step(self, model: Any, inputs: StepBatch, num_items_in_batch: object = None) -> Tensor:
        """Learn from all samples of one optimizer step; the loss is the sum over label tokens by their count."""
        model.train()
        loss = torch.zeros((), device=self.args.device)
        for row in inputs.rows:
            if not row.labels:
                continue
            self._leave_if_cancelled()
            part = self._sum_of_losses(model, row) / inputs.labels
            self.accelerator.backward(part)
            loss += part.detach()
        self.state.num_input_tokens_seen += inputs.tokens
        self._loss = loss
        return loss

    @override
    def evaluate(self, *_: object, **__: object) -> dict[str, float]:
        """Compute the loss over the labels of all validation rows, each label weighing the same."""
        self._check_finite()
        with self._events.aside(Phase.EVALUATING):
            metrics = {"eval_loss": self._validation_loss()}
        if not math.isfinite(metrics["eval_loss"]):
            raise NotFinite(self.state.global_step)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        if self.best.is_fresh and self.best.keeps_weights:
            self.best.keep(models.adapter_weights(self.model))
        return metrics

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._check_finite()
        super().log(logs, start_time)

    @override
    def _get_train_sampler(self, train_dataset: Sequence[Row] | None = None) -> EpochOrder:
        """Draw in the order that plans know, which is the one that Trainer's own sampler would draw."""
        return EpochOrder(len(self.train_dataset), seed=self.args.seed)

    @override
    def _get_num_items_in_batch(self, batch_samples: object, device: object) -> None:
        """Leave the label count to the batch, which was counted when it was flattened."""

    @override
    def floating_point_ops(self, inputs: object) -> int:
        """Count nothing: Trainer would walk all parameters at each step for a number that nobody reads."""
        return 0

    @override
    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Clip, and see that neither loss nor gradient left the finite numbers before the optimizer uses them."""
        norm: Tensor = super()._clip_grad_norm(model)
        step = self.state.global_step + 1
        bad = ~(torch.isfinite(self._loss) & torch.isfinite(norm))
        self._first_bad = torch.where(bad, self._first_bad.clamp(max=step), self._first_bad)
        if norm.device.type == "cpu" or step % STEPS_BETWEEN_CHECKS == 0:
            self._check_finite()
        return norm

    @override
    def _save_checkpoint(self, model: object, trial: object) -> None:
        """Let Trainer write into scratch, add what is ours, and publish."""
        self._check_finite()
        with self._events.aside():
            step = self.state.global_step
            # Adapter, and Adam's two moments of it.
            self._shelf.check_room(sum(p.numel() * 12 for p in self.model.parameters() if p.requires_grad))
            super()._save_checkpoint(model, trial)
            written = Path(self.args.output_dir) / f"checkpoint-{step}"
            self.best.save(written)
            facts = {"trained_tokens": self.state.num_input_tokens_seen}
            self._events.tell(self._shelf.checkpoint(written, step=step, facts=facts))

    @override
    def _save(self, output_dir: str | None = None, state_dict: object = None) -> None:
        """Write the adapter alone: Trainer would add a model card and a pickle of its arguments, paths included."""
        models.save_adapter(self.model, Path(output_dir or self.args.output_dir), base_name=self._base_name)

    @override
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: object = None) -> None:
        folder = Path(resume_from_checkpoint)
        models.load_adapter(self.model, folder / models.WEIGHTS)
        self.best.restore(folder)

    def _sum_of_losses(self, model: Any, row: Row) -> Tensor:  # noqa: ANN401
        inputs = flat.model_inputs(row, self.args.device)
        logits_NV = model(**inputs, use_cache=False).logits[0]
        return cross_entropy(logits_NV.float(), row.targets_N.to(logits_NV.device), reduction="sum")

    @torch.no_grad()
    def _validation_loss(self) -> float:
        if self._validation is None:
            raise ValueError("there are no validation rows")
        self.model.eval()
        total = torch.zeros((), device=self.args.device)
        for row in self._validation.rows:
            self._leave_if_cancelled()
            if row.labels:
                total += self._sum_of_losses(self.model, row)
        return float(total) / max(self._validation.labels, 1)

    def _check_finite(self) -> None:
        if (step := int(self._first_bad)) <= self.state.global_step + 1:
            raise NotFinite(step)

    def _leave_if_cancelled(self) -> None:
        """Leave a long step or evaluation at once: what is cancelled keeps nothing."""
        if self._events.wishes.wish == "cancel":
            raise StopAsked("cancel")
