"""Runs for the trainer's tests: a spec, a data set and a base, as a worker would lay them out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from core.domain.jobs import Phase
from core.domain.training import Checkpointed, Evaluated, Progress, TrainSpec
from core.text.chat import Renderer
from worker.messages import Finished, Run, Stepped, Stopped
from worker.trainer.attempt import HeldBase, run_attempt
from worker.trainer.wishes import Wish, Wishes

WORDS = ["茶", "雪", "月", "山", "风", "灯", "书", "琴"]


def rows(count: int, *, words: int = 3) -> list[dict[str, str]]:
    """Rows of different lengths, no two alike."""
    return [
        {
            "instruction": f"第{number}问" + "".join(WORDS[(number + step) % 8] for step in range(words + number % 5)),
            "input": "",
            "output": "".join(WORDS[(number * 3 + step) % 8] for step in range(1 + number % 4)) + "。",
        }
        for number in range(count)
    ]


def write(folder: Path, content: Sequence[Mapping[str, Any]], *, name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content), encoding="utf-8")
    return path


def spec(**fields: Any) -> TrainSpec:
    defaults = {
        "dataset": "ds_1",
        "name": "tiny",
        "base_model": "tiny-base",
        "max_length": 256,
        "pack_length": 256,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1.0,
        "logging_steps": 1,
    }
    return TrainSpec.model_validate(defaults | fields)


def run(base: Path, data: Path, output: Path, given: TrainSpec, **fields: Any) -> Run:
    output.mkdir(parents=True)
    return Run(
        job_id="job_1",
        attempt=fields.pop("attempt", 1),
        spec=given,
        base_dir=str(base),
        base_fingerprint="f" * 64,
        template_hash=Renderer.load(base).template_hash,
        dataset_path=str(data),
        dataset_sha256=fields.pop("dataset_sha256", sha256(data)),
        output_dir=str(output),
        device="cpu",
        **fields,
    )


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights(result: Finished | Stopped) -> dict[str, Tensor]:
    assert isinstance(result, Finished)
    found: dict[str, Tensor] = load_file(Path(result.bundle_dir) / "adapter_model.safetensors")
    return found


@dataclass
class Heard:
    """Everything an attempt told; asks for a stop once a step has been logged, if it shall."""

    wishes: Wishes = field(default_factory=Wishes)
    stop_at: int | None = None
    wish: Wish = "pause"
    events: list[Any] = field(default_factory=list)

    def tell(self, event: object) -> None:
        self.events.append(event)
        if isinstance(event, Progress) and event.step + 1 == self.stop_at:
            self.wishes.ask(self.wish)

    @property
    def progress(self) -> list[Progress]:
        return [event for event in self.events if isinstance(event, Progress)]

    @property
    def losses(self) -> list[float]:
        return [event.loss for event in self.progress]

    @property
    def evaluated(self) -> list[Evaluated]:
        return [event for event in self.events if isinstance(event, Evaluated)]

    @property
    def checkpoints(self) -> list[Checkpointed]:
        return [event for event in self.events if isinstance(event, Checkpointed)]

    @property
    def phases(self) -> list[Phase]:
        return [event for event in self.events if isinstance(event, Phase)]

    @property
    def stepped(self) -> list[Stepped]:
        return [event for event in self.events if isinstance(event, Stepped)]


def train(given: Run, heard: Heard | None = None, held: HeldBase | None = None) -> tuple[Finished | Stopped, Heard]:
    heard = heard or Heard()
    result = run_attempt(given, held=held or HeldBase(), wishes=heard.wishes, tell=heard.tell)
    return result, heard
