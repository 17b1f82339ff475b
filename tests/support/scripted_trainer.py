"""A trainer without torch: a real process that speaks worker/messages and does what its script says.

`python -m tests.support.scripted_trainer SCRIPT`, SCRIPT being JSON: one list of actions for each Run, the last one
repeated. An action is a list: its name, then its arguments. What it got is written beside `output_dir`.
"""

import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from core.domain.jobs import Failure, FailureClass, Phase
from core.domain.training import Checkpointed, Evaluated, Progress
from core.storage import bundles
from worker import messages


class Pipe:
    def __init__(self) -> None:
        self.requests = int(os.environ["BLUELORA_REQUESTS_FD"])
        self.replies = int(os.environ["BLUELORA_REPLIES_FD"])
        self.buffer = b""

    def say(self, message: messages.Line) -> None:
        os.write(self.replies, messages.line(message))

    def next(self, timeout_s: float | None) -> messages.Request | None:
        while b"\n" not in self.buffer:
            ready, _, _ = select.select([self.requests], [], [], timeout_s)
            if not ready:
                return None
            more = os.read(self.requests, 65536)
            if not more:
                sys.exit(0)
            self.buffer += more
        line, _, self.buffer = self.buffer.partition(b"\n")
        return messages.requests.validate_json(line)


class Attempt:
    """One Run, played by its script."""

    def __init__(self, pipe: Pipe, run: messages.Run) -> None:
        self.pipe = pipe
        self.run = run
        self.output = Path(run.output_dir)
        self.step = (
            json.loads((Path(run.checkpoint_dir) / "state.json").read_text())["step"] if run.checkpoint_dir else 0
        )
        (self.output.parent / f"{self.output.name}.run.json").write_text(run.model_dump_json())

    def play(self, actions: list[list[Any]]) -> None:
        for name, *arguments in actions:
            getattr(self, name)(*arguments)

    def enter(self, phase: str) -> None:
        self.pipe.say(messages.Entered(phase=Phase(phase)))

    def progress(self, count: int = 1, total: int = 100) -> None:
        for _ in range(count):
            self.step += 1
            event = Progress(
                step=self.step, total_steps=total, epoch=self.step / total, loss=3.0 / self.step, learning_rate=1e-4,
                grad_norm=1.0, tokens_per_second=100.0, trained_tokens=self.step * 10, eta_seconds=1.0,
            )  # fmt: skip
            self.pipe.say(messages.Told(event=event))

    def evaluate(self) -> None:
        self.pipe.say(messages.Told(event=Evaluated(step=self.step, epoch=0.5, eval_loss=1.5)))

    def checkpoint(self) -> None:
        folder = self.output / f"checkpoint-{self.step}"
        self.fill(folder)
        (folder / "state.json").write_text(json.dumps({"step": self.step}))
        sealed = bundles.seal(folder, self.facts())
        event = Checkpointed(
            step=self.step, path=str(folder), manifest_sha256=sealed.manifest_sha256, bytes=sealed.bytes
        )
        self.pipe.say(messages.Told(event=event))

    def finish(self, reason: Any = "completed", break_it: str = "") -> None:
        folder = self.output / "adapter"
        self.fill(folder)
        bundles.seal(folder, self.facts())
        if break_it:
            (folder / break_it).write_bytes(b"rotten")
        self.pipe.say(
            messages.Finished(bundle_dir=str(folder), step=self.step, trained_tokens=self.step * 10, reason=reason)
        )

    def finish_unexplained(self) -> None:
        folder = self.output / "adapter"
        self.fill(folder)
        bundles.seal(folder, {})
        self.pipe.say(messages.Finished(bundle_dir=str(folder), step=1, trained_tokens=1, reason="completed"))

    def finish_elsewhere(self) -> None:
        self.pipe.say(messages.Finished(bundle_dir="/", step=1, trained_tokens=1, reason="completed"))

    def fail(self, failure_class: str, code: str = "scripted") -> None:
        failure = Failure(code=code, message="The script says so.", failure_class=FailureClass(failure_class))
        self.pipe.say(messages.Failed(failure=failure))

    def die(self, number: int) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    def exit(self, code: int) -> None:
        os._exit(code)

    def garbage(self, text: str) -> None:
        os.write(self.pipe.replies, text.encode() + b"\n")

    def endless_line(self) -> None:
        for _ in range(20):
            os.write(self.pipe.replies, b"x" * 65536)

    def hang(self, seconds: float = 600.0) -> None:
        time.sleep(seconds)

    def start_sleeper(self) -> None:
        sleeper = subprocess.Popen(["sleep", "600"])
        (self.output.parent / f"{self.output.name}.sleeper").write_text(str(sleeper.pid))

    def ignore_term(self) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def print(self, text: str) -> None:
        print(text, flush=True)

    def until_stopped(self, step_s: float = 0.02, save_every: int = 0, total: int = 10_000) -> None:
        """Train on until the worker says Stop or `total` steps are done, then do what was asked."""
        while self.step < total:
            request = self.pipe.next(step_s)
            self.progress(total=total)
            if isinstance(request, messages.Stop):
                return self.obey(request)
            if save_every and self.step % save_every == 0:
                self.checkpoint()
        return self.finish()

    def obey(self, request: messages.Stop) -> None:
        if request.wish == "finish":
            return self.finish("finished_early")
        if request.wish == "pause":
            self.checkpoint()
        return self.pipe.say(messages.Stopped(wish=request.wish, step=self.step, trained_tokens=self.step * 10))

    def facts(self) -> dict[str, Any]:
        spec = json.loads(self.run.spec.model_dump_json())
        return {
            "job": self.run.job_id, "attempt": self.run.attempt, "step": self.step, "spec": spec,
            "template_hash": self.run.template_hash, "system_prompt": self.run.spec.system_prompt,
            "base": {"fingerprint": self.run.base_fingerprint}, "dataset": {"sha256": self.run.dataset_sha256},
        }  # fmt: skip

    def fill(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(f"{self.run.job_id} {self.step}".encode())
        (folder / "adapter_config.json").write_text(json.dumps({"r": self.run.spec.r, "step": self.step}))


def main() -> None:
    faulthandler.enable()
    pipe = Pipe()
    script: list[list[list[Any]]] = json.loads(sys.argv[1])
    pipe.say(messages.Ready(device="cpu", memory_bytes=2**30))
    while True:
        request = pipe.next(None)
        if isinstance(request, messages.Run):
            Attempt(pipe, request).play(script[0])
            script = script[1:] or script


if __name__ == "__main__":
    main()
