"""`bluelora demo`: the main job from end to end, by the service's own API.

Starts `bluelora up` on free ports, uploads the sample, trains an adapter, and asks base and adapter the same
questions. Ends with one JSON line on stdout.
"""

import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape
from rich.table import Table

from cli import places, remote, up, watch
from cli.places import ROOT, DataDir
from cli.processes import python
from cli.screen import JobFailed, Refused, screen
from core import tether

ASSETS: Final = ROOT / "assets"
START_S: Final = 240.0
ADAPTER: Final = "demo"
SPEC: Final[Mapping[str, float]] = {"learning_rate": 3e-3, "num_train_epochs": 12, "logging_steps": 5}
"""What the demo asks for beyond the tutorial's defaults."""
KeepOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Keep the data here; default a temporary one.", show_default=False)
]


def command(data_dir: KeepOption = None) -> None:
    """Upload a data set, train an adapter, and compare its answers with the base's: two minutes on two cores."""
    began = time.monotonic()
    with _data(data_dir) as data, _running(data) as service:
        screen.say(f"The service runs at {service.url}.")
        result = _main_job(service)
    result["seconds"] = round(time.monotonic() - began, 1)
    screen.document(result)


def _main_job(service: remote.Service) -> dict[str, Any]:
    persona: dict[str, Any] = json.loads((ASSETS / "persona.json").read_text())
    with (ASSETS / "sample.jsonl").open("rb") as file:
        dataset = service.upload("/datasets", file, query={"name": "sample", "filename": "sample.jsonl"})
    screen.say(f"Uploaded {dataset['name']}@{dataset['version']}: {dataset['summary']['rows']} rows.")
    shown = ", ".join(f"{key} {value}" for key, value in SPEC.items())
    screen.say(f"Training with {shown} (the tutorial's 1e-4 teaches a model this small nothing), and the persona as")
    screen.say(f"system_prompt: {escape(persona['system_prompt'])}")
    sent = {"dataset": dataset["id"], "name": ADAPTER, "system_prompt": persona["system_prompt"], **SPEC}
    job = watch.follow(service, service.post("/jobs", sent)["id"], console=screen.console)
    if job["status"] != "succeeded":
        failure = job.get("failure") or {}
        raise JobFailed(f"The job {job['status']}: {failure.get('message', '')}", problem=failure)
    losses = [row["loss"] for row in service.get(f"/jobs/{job['id']}/metrics")["data"] if row["loss"] is not None]
    adapter = job["adapter"]
    # Both are told the persona: the adapter by its manifest, the base by a system message.
    told = {"role": "system", "content": persona["system_prompt"]}
    answers = {
        "base": [_ask(service, [told, _user(question)]) for question in persona["questions"]],
        "adapter": [_ask(service, [_user(question)], adapter["id"]) for question in persona["questions"]],
    }
    _compare(persona["questions"], answers)
    return {
        "job": job["id"],
        "adapter": f"{adapter['name']}@{adapter['version']}",
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "base_answers": answers["base"],
        "adapter_answers": answers["adapter"],
    }


def _ask(service: remote.Service, messages: list[dict[str, str]], adapter: str | None = None) -> str:
    body = {"messages": messages, "max_tokens": 64} | ({"adapter": adapter} if adapter else {})
    return str(service.post("/generate", body)["choices"][0]["message"]["content"])


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _compare(questions: list[str], answers: Mapping[str, list[str]]) -> None:
    table = Table(show_lines=True)
    for title in ("question", "base", "adapter"):
        table.add_column(title, overflow="fold")
    for question, base, adapter in zip(questions, answers["base"], answers["adapter"], strict=True):
        table.add_row(escape(question), escape(base), escape(adapter))
    screen.console.print(table)


@contextmanager
def _data(kept: Path | None) -> Iterator[DataDir]:
    if kept is not None:
        yield places.chosen(kept)
        return
    folder = Path(tempfile.mkdtemp(prefix="bluelora-demo-"))
    try:
        yield DataDir(folder)
    finally:
        shutil.rmtree(folder)


@contextmanager
def _running(data: DataDir) -> Iterator[remote.Service]:
    """Run `bluelora up` on the data directory; it is stopped in order, whatever happens."""
    with up.only_one(data):
        pass  # a service.json that is there from now on is our own supervisor's
    data.logs.mkdir(parents=True, exist_ok=True)
    log = data.logs / "up.log"
    command = tether.command(python("cli", "up", "--data-dir", str(data.path), "--port", "0"))
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        with screen.console.status("starting the service"):
            _wait(supervisor, data, log)
        yield remote.Service(json.loads(data.service_file.read_text())["url"], data.admin_key_file.read_text().strip())
    finally:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait()


def _wait(supervisor: subprocess.Popen[bytes], data: DataDir, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not data.service_file.exists():
        if supervisor.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").strip()[-2000:]
            raise Refused(f"The service did not start. The end of its log:\n{last}")
        time.sleep(0.1)
