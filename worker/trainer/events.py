"""Where transformers' Trainer meets our events: its callbacks become Progress and Evaluated, wishes become its stops.

Decides when to log, evaluate, save and stop; never how. All four go by optimizer steps, so that a resumed attempt
decides as the straight one did.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Literal

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from core.domain.jobs import Phase
from core.domain.steps import Steps
from core.domain.training import Evaluated, Progress, TrainingEvent, TrainSpec
from worker.messages import Entered, Stepped
from worker.trainer.checkpoints import Best
from worker.trainer.wishes import Wishes

Tell = Callable[[TrainingEvent | Phase | Entered | Stepped], None]
SECONDS_BETWEEN_STEPS: Final = 1.0
Outcome = Literal["completed", "early_stopped", "finish", "pause", "cancel"]


class Events(TrainerCallback):  # type: ignore[misc]  # transformers is untyped
    """One attempt's callbacks.

    Args:
        spec: Says how often to log and save, and with how much patience.
        steps: The counts of the whole training.
        validates: Whether there are validation rows.
        best: The best evaluation so far; this class updates its losses, the loop keeps its weights.
        wishes: What the worker wants; read at each step's end.
        tell: Takes events and phases, in order.
    """

    def __init__(
        self, *, spec: TrainSpec, steps: Steps, validates: bool, best: Best, wishes: Wishes, tell: Tell
    ) -> None:
        self.tell = tell
        self.best = best
        self.wishes = wishes
        self.outcome: Outcome = "completed"
        self._spec = spec
        self._steps = steps
        self._validates = validates
        self._pace = Pace()
        self._said_step = 0.0
        self.last: Progress | None = None

    @contextmanager
    def aside(self, phase: Phase | None = None) -> Iterator[None]:
        """Keep the time of this block out of the training's pace; name it as a phase of its own if it is one."""
        began = time.monotonic()
        if phase:
            self.tell(phase)
        yield
        if phase:
            self.tell(Phase.TRAINING)
        self._pace.skip(time.monotonic() - began)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        self._pace = Pace(step=state.global_step, tokens=state.num_input_tokens_seen)

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        step, done = state.global_step, ends(state)
        self._say_step(step)
        wish = self.wishes.wish
        if wish and (wish == "cancel" or not done):
            self.outcome = wish
            control.should_training_stop = True
        if wish == "cancel":
            control.should_log = False
            return
        control.should_log = control.should_log or control.should_training_stop or done
        control.should_evaluate = self._validates and (step % self._steps.evaluate_every == 0 or done)
        control.should_save = self.outcome == "pause" or (step % self._spec.save_steps == 0 and not done)

    def _say_step(self, step: int) -> None:
        now = time.monotonic()
        if now - self._said_step >= SECONDS_BETWEEN_STEPS:
            self._said_step = now
            self.tell(Stepped(step=step))

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        pace = self._pace.measure(step=state.global_step, tokens=state.num_input_tokens_seen)
        self.last = Progress(
            step=state.global_step,
            total_steps=state.max_steps,
            epoch=state.epoch or 0.0,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs["grad_norm"],
            tokens_per_second=pace.tokens_per_second,
            trained_tokens=state.num_input_tokens_seen,
            eta_seconds=pace.seconds_per_step * (state.max_steps - state.global_step),
        )
        self.tell(self.last)

    @override
    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: object,
    ) -> None:
        loss = metrics["eval_loss"]
        self.tell(Evaluated(step=state.global_step, epoch=state.epoch or 0.0, eval_loss=loss))
        self.best.see(loss, step=state.global_step)
        patience = self._spec.early_stopping_patience
        out_of_patience = patience is not None and self.best.waited >= patience and not ends(state)
        # A pause asked for in this very step comes too late: resumed, the training would go on past its end.
        if out_of_patience and self.outcome in {"completed", "pause"}:
            self.outcome = "early_stopped"
            control.should_training_stop = True
            # Trainer logs before it evaluates, and once more when it leaves the epoch: the last step is told there.
            control.should_log = True
            # A checkpoint of this step would resume past the decision to stop.
            control.should_save = False


def ends(state: TrainerState) -> bool:
    """Say whether the training has taken its last step."""
    return bool(state.global_step >= state.max_steps)


class Pace:
    """How fast the training goes, between logs; time set aside does not count."""

    def __init__(self, *, step: int = 0, tokens: int = 0) -> None:
        self._step, self._tokens = step, tokens
        self._since = time.monotonic()
        self.tokens_per_second = 0.0
        self.seconds_per_step = 0.0

    def skip(self, seconds: float) -> None:
        """Take `seconds` out of the current stretch."""
        self._since += seconds

    def measure(self, *, step: int, tokens: int) -> "Pace":
        """Close the stretch that ends here, and return the pace over it."""
        now = time.monotonic()
        elapsed = max(now - self._since, 1e-9)
        self.tokens_per_second = (tokens - self._tokens) / elapsed
        self.seconds_per_step = elapsed / max(step - self._step, 1)
        self._step, self._tokens, self._since = step, tokens, now
        return self
