"""One attempt, from a Run to its end: load, tokenize, train, check, publish.

Reads downwards; each phase is told before it begins. Knows no pipe: `tell` takes events, the result is returned.
"""

import gc
import math
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import torch
from peft import PeftModel
from transformers import PreTrainedModel, set_seed

from core.domain import steps as counting
from core.domain.jobs import Phase
from core.ml import attention
from core.ml import model as models
from core.text.chat import Renderer
from worker.messages import Entered, Finished, Run, Stopped
from worker.trainer import checkpoints, data, loop
from worker.trainer import rows as flat
from worker.trainer.checkpoints import Best, Facts, Reached, Shelf
from worker.trainer.data import Loaded, Source
from worker.trainer.events import Events, Tell
from worker.trainer.failures import Damaged, NotFinite, UserError
from worker.trainer.loop import LoraTrainer
from worker.trainer.wishes import StopAsked, Wishes

PACKAGES: Final = ("bluelora", "torch", "transformers", "peft", "accelerate", "tokenizers")


class HeldBase:
    """The base that stays loaded between attempts; another fingerprint replaces it."""

    def __init__(self) -> None:
        self._fingerprint: str | None = None
        self._model: PreTrainedModel | None = None

    @contextmanager
    def with_lora(self, run: Run) -> Iterator[PeftModel]:
        """Lend the run's base with a fresh LoRA, seeded by the spec, and take the LoRA off again."""
        base = self._get(run)
        spec = run.spec
        set_seed(spec.seed)
        lora = models.Lora(
            r=spec.r,
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.lora_dropout,
            target_modules=spec.target_modules,
            use_rslora=spec.use_rslora,
        )
        # Until the LoRA is off again, nobody may take this for a bare base: an error on the way drops it.
        self._model = None
        model = models.add_lora(base, lora)
        try:
            yield model
        finally:
            self._model = model.unload()

    def tidy(self) -> None:
        """Give back what the last attempt left in cycles and in the device's cache; not while one runs."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _get(self, run: Run) -> PreTrainedModel:
        if self._model is None or self._fingerprint != run.base_fingerprint:
            self._model, self._fingerprint = None, None
            self._model = models.load_base(
                Path(run.base_dir), run.device, models.dtype_for(run.device), attention_name=attention.NAME
            )
            self._fingerprint = run.base_fingerprint
        return self._model


def run_attempt(run: Run, *, held: HeldBase, wishes: Wishes, tell: Tell) -> Finished | Stopped:
    """Train one attempt and publish its adapter, or end it as asked.

    Raises:
        AttemptFailed: For a reason with a name; `failures.classify` names every other exception.
    """
    reached = Reached()
    if run.checkpoint_dir:
        reached = checkpoints.verify(Path(run.checkpoint_dir), expected=_identity(run), spec=run.spec)
    shelf = Shelf(Path(run.output_dir), attempt=run.attempt, facts=_facts(run))
    try:
        return _run(run, held=held, wishes=wishes, tell=tell, shelf=shelf)
    except StopAsked as stop:
        return Stopped(wish=stop.wish, step=reached.step, trained_tokens=reached.trained_tokens)
    finally:
        shelf.clear()


def _run(run: Run, *, held: HeldBase, wishes: Wishes, tell: Tell, shelf: Shelf) -> Finished | Stopped:
    tell(Phase.LOADING)
    wishes.check()
    renderer = Renderer.load(Path(run.base_dir))
    if renderer.template_hash != run.template_hash:
        raise Damaged("template_changed", "The base's chat format on this worker is not the one it was imported with.")
    with held.with_lora(run) as model:
        tell(Phase.TOKENIZING)
        loaded = _load_rows(run, renderer=renderer, wishes=wishes)
        trainer, events = _prepare(run, model=model, loaded=loaded, wishes=wishes, tell=tell, shelf=shelf)
        wishes.check()
        tell(_begun(loaded))
        try:
            trainer.train(resume_from_checkpoint=run.checkpoint_dir)
        except StopAsked as stop:
            # Raised inside a long step or evaluation, where Trainer can't be told.
            events.outcome = stop.wish
        state = trainer.state
        if events.outcome in {"cancel", "pause"}:
            wish = "cancel" if events.outcome == "cancel" else "pause"
            return Stopped(wish=wish, step=state.global_step, trained_tokens=state.num_input_tokens_seen)
        tell(Phase.PUBLISHING)
        folder = _publish(run, trainer=trainer, events=events, loaded=loaded, shelf=shelf)
        return Finished(
            bundle_dir=str(folder),
            step=state.global_step,
            trained_tokens=state.num_input_tokens_seen,
            reason="finished_early" if events.outcome == "finish" else events.outcome,
        )


def _load_rows(run: Run, *, renderer: Renderer, wishes: Wishes) -> Loaded:
    validation = None
    if run.validation_path is not None and run.validation_sha256 is not None:
        validation = Source(path=Path(run.validation_path), sha256=run.validation_sha256)
    train = Source(path=Path(run.dataset_path), sha256=run.dataset_sha256)
    return data.load(train, validation, spec=run.spec, renderer=renderer, wishes=wishes)


def _begun(loaded: Loaded) -> Phase | Entered:
    if not loaded.duplicates:
        return Phase.TRAINING
    message = f"Training has begun; {loaded.duplicates} rows that repeat an earlier one are left out."
    return Entered(phase=Phase.TRAINING, message=message)


def _prepare(
    run: Run, *, model: PeftModel, loaded: Loaded, wishes: Wishes, tell: Tell, shelf: Shelf
) -> tuple[LoraTrainer, Events]:
    spec = run.spec
    steps = counting.count(len(loaded.rows), spec)
    events = Events(
        spec=spec,
        steps=steps,
        validates=bool(loaded.validation),
        best=Best(keeps_weights=spec.load_best_model_at_end),
        wishes=wishes,
        tell=tell,
    )
    trainer = LoraTrainer(
        model,
        args=loop.arguments(spec, steps, device=run.device, scratch=shelf.scratch),
        rows=loaded.rows,
        validation=loaded.validation,
        events=events,
        shelf=shelf,
        base_name=spec.base_model or run.base_fingerprint,
    )
    return trainer, events


def _publish(run: Run, *, trainer: LoraTrainer, events: Events, loaded: Loaded, shelf: Shelf) -> Path:
    """Write the adapter, check that it is whole and does something, and rename it into sight."""
    best, state, model = trainer.best, trainer.state, trainer.model
    restores = run.spec.load_best_model_at_end and bool(best.weights)
    if restores:
        models.set_adapter_weights(model, best.weights)
    written = shelf.scratch / "adapter"
    models.save_adapter(model, written, base_name=run.spec.base_model or run.base_fingerprint)
    models.check_adapter(model, written / models.WEIGHTS)
    _check_effect(run, trainer=trainer, loaded=loaded)
    metrics = {
        "steps": state.global_step,
        "train_loss": events.last.loss if events.last else None,
        "best_eval_loss": best.loss if math.isfinite(best.loss) else None,
        "samples": loaded.samples,
        "duplicates": loaded.duplicates,
        "dropped": loaded.dropped,
        "truncated": loaded.truncated,
    }
    facts: Facts = {
        "step": best.step if restores else state.global_step,
        "trained_tokens": state.num_input_tokens_seen,
        "metrics": metrics,
    }
    return shelf.final(written, facts=facts)


def _check_effect(run: Run, *, trainer: LoraTrainer, loaded: Loaded) -> None:
    row = flat.model_inputs(loaded.rows[0], trainer.args.device)
    difference = models.effect(trainer.model, row)
    if not math.isfinite(difference):
        raise NotFinite(trainer.state.global_step)
    if difference == 0:
        raise UserError(
            "no_effect",
            "The trained adapter changes no answer of the base. Raise learning_rate or train for more steps "
            f"(learning_rate was {run.spec.learning_rate:g}, {trainer.state.global_step} steps).",
        )


def _identity(run: Run) -> Facts:
    """What a checkpoint must share with the run that resumes from it."""
    return {
        "job": run.job_id,
        "base_fingerprint": run.base_fingerprint,
        "dataset_sha256": run.dataset_sha256,
    }


def _facts(run: Run) -> Facts:
    return {
        **_identity(run),
        "attempt": run.attempt,
        "spec": run.spec.model_dump(mode="json"),
        "base": run.spec.base_model,
        "validation_sha256": run.validation_sha256,
        "template_hash": run.template_hash,
        "system_prompt": run.spec.system_prompt,
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "device": torch.cuda.get_device_name() if run.device == "cuda" else "cpu",
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        # A checkout on the path is a way to run us too; its version is its commit, which nobody recorded here.
        return "uninstalled"
