"""Checkpoints and the best adapter: written in a private scratch folder, sealed, renamed into sight, verified on resume.

Knows Trainer's file names, not its loop; the hashing and syncing are core/storage/bundles.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor

from core.domain.training import Checkpointed, TrainSpec
from core.ml import model as models
from core.storage import bundles
from worker.trainer.failures import Damaged, DiskFull

STATE: Final = "trainer_state.json"
NEEDED: Final = (models.WEIGHTS, models.CONFIG, "optimizer.pt", "scheduler.pt", "rng_state.pth", STATE)
"""Trainer resumes without an optimizer or RNG file too, silently to other weights: all of them must be there."""
BEST: Final = "best.json"
BEST_WEIGHTS: Final = "best_adapter.safetensors"
HEADROOM: Final = 2.5
"""Free space wanted before a save, as a multiple of what the last one took."""

Facts = Mapping[str, object]


@dataclass
class Best:
    """The best evaluation so far: its loss and step, how many evaluations came since, and its weights if kept."""

    keeps_weights: bool = False
    loss: float = float("inf")
    step: int = 0
    waited: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_fresh(self) -> bool:
        """Whether the last evaluation was the best."""
        return self.step > 0 and self.waited == 0

    def see(self, loss: float, *, step: int) -> None:
        """Take note of one evaluation."""
        if loss < self.loss:
            self.loss, self.step, self.waited = loss, step, 0
        else:
            self.waited += 1

    def keep(self, weights: Mapping[str, Tensor]) -> None:
        """Keep a copy of the weights that the best evaluation was made with."""
        self.weights = {name: tensor.clone() for name, tensor in weights.items()}

    def save(self, folder: Path) -> None:
        """Write what a resumed attempt needs to decide as this one would."""
        if not self.step:
            return
        facts = {"loss": self.loss, "step": self.step, "waited": self.waited}
        (folder / BEST).write_text(json.dumps(facts) + "\n")
        if self.weights:
            save_file(self.weights, folder / BEST_WEIGHTS, metadata={"format": "pt"})

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote; a checkpoint from before the first evaluation has nothing to read."""
        if not (folder / BEST).exists():
            return
        facts = json.loads((folder / BEST).read_text())
        self.loss, self.step, self.waited = facts["loss"], facts["step"], facts["waited"]
        if self.keeps_weights:
            self.weights = load_file(folder / BEST_WEIGHTS)


class Shelf:
    """The folder of one attempt: scratch below, published bundles beside it.

    Args:
        folder: Empty, on the filesystem where checkpoints are kept, since renames don't cross filesystems.
        attempt: Part of a checkpoint's name, so that two attempts at one step never meet.
        facts: What the manifest of every bundle says, but for the step.
    """

    def __init__(self, folder: Path, *, attempt: int, facts: Facts) -> None:
        self.scratch = folder / "scratch"
        self.scratch.mkdir(parents=True)
        self._checkpoints = folder / "checkpoints"
        self._checkpoints.mkdir()
        self._final = folder / "adapter"
        self._attempt = attempt
        self._facts = facts
        self._last_bytes = 0

    def check_room(self, estimate: int) -> None:
        """Refuse early, while the last checkpoint is still whole.

        Args:
            estimate: Bytes of a first checkpoint; later ones are judged by the one before.

        Raises:
            DiskFull: Less is free than `HEADROOM` checkpoints.
        """
        if shutil.disk_usage(self.scratch).free < HEADROOM * (self._last_bytes or estimate):
            raise DiskFull

    def checkpoint(self, written: Path, *, step: int, facts: Facts) -> Checkpointed:
        """Seal what Trainer wrote and rename it into sight."""
        target = self._checkpoints / f"{step}-{self._attempt}"
        sealed = self._publish(written, target, facts={**facts, "step": step})
        self._last_bytes = sealed.bytes
        return Checkpointed(step=step, path=str(target), manifest_sha256=sealed.manifest_sha256, bytes=sealed.bytes)

    def final(self, written: Path, *, facts: Facts) -> Path:
        """Seal the final adapter, rename it into sight, and return where it is."""
        self._publish(written, self._final, facts=facts)
        return self._final

    def clear(self) -> None:
        """Drop the scratch folder; what was published stays."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _publish(self, written: Path, target: Path, *, facts: Facts) -> bundles.Sealed:
        try:
            sealed = bundles.seal(written, {**self._facts, **facts})
            bundles.publish(written, target)
        except OSError:
            # A failed fsync is final: the same pages are clean the second time, and lost.
            shutil.rmtree(written, ignore_errors=True)
            raise
        return sealed


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the attempts before this one have come."""

    step: int = 0
    trained_tokens: int = 0


def verify(folder: Path, *, expected: Facts, spec: TrainSpec) -> Reached:
    """Check that a checkpoint is whole and is this job's, and say how far it is.

    Args:
        folder: The bundle, as published.
        expected: Facts its manifest must repeat.
        spec: What its manifest must mean. The words may be of an earlier version, which knew fewer fields.

    Raises:
        Damaged: A file is missing, torn or changed, or the checkpoint is another job's.
    """
    try:
        text = (folder / bundles.MANIFEST).read_bytes()
        listed = {file.name for file in bundles.verify(folder, hashlib.sha256(text).hexdigest())}
        manifest = json.loads(text)
    except (OSError, bundles.BrokenBundle) as error:
        raise Damaged("checkpoint_damaged", "The checkpoint to resume from is torn or was changed.") from error
    missing = [name for name in NEEDED if name not in listed]
    if missing:
        raise Damaged("checkpoint_damaged", f"The checkpoint to resume from lacks {', '.join(missing)}.")
    for name, value in expected.items():
        if manifest.get(name) != value:
            raise _foreign(name)
    try:
        if TrainSpec.model_validate(manifest.get("spec")) != spec:
            raise _foreign("spec")
    except ValidationError as error:
        raise _foreign("spec") from error
    return Reached(step=manifest["step"], trained_tokens=manifest["trained_tokens"])


def _foreign(name: str) -> Damaged:
    return Damaged("checkpoint_foreign", f"The checkpoint to resume from was made with another {name}.")
