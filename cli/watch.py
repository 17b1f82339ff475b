"""A live view of one job: a bar with loss, tokens/s and time left."""

import time
from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from cli.remote import Service
from cli.screen import Unreachable

POLL_S: Final = 0.5
PATIENCE_S: Final = 60.0
"""A job outlives its API: a service that does not answer is asked again for so long, as a restart takes less."""
ENDED: Final = frozenset({"succeeded", "failed", "cancelled"})


def follow(service: Service, job_id: str, *, console: Console, patience_s: float = PATIENCE_S) -> Mapping[str, Any]:
    """Show a job until it has ended, and return it.

    Where the console is no terminal, one line is printed for each new phase and loss instead of a bar.

    Raises:
        Unreachable: The service has not answered for `patience_s`; the job may go on all the same.
        Refused: The service knows no such job.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}  {task.fields[speed]} tokens/s  {task.fields[left]} left"),
    )
    seen = ""
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("waiting", total=None, loss="-", speed="-", left="-")
        while True:
            job = _asked(service, job_id, console=console, patience_s=patience_s)
            _draw(bar, task, job)
            line = _line(job)
            if not console.is_terminal and line != seen:
                console.print(line)
                seen = line
            if job["status"] in ENDED:
                return job
            time.sleep(POLL_S)


def _asked(service: Service, job_id: str, *, console: Console, patience_s: float) -> Mapping[str, Any]:
    given_up_at = time.monotonic() + patience_s
    told = False
    while True:
        try:
            job: Mapping[str, Any] = service.get(f"/jobs/{job_id}")
        except Unreachable as error:
            if time.monotonic() >= given_up_at:
                raise
            if not told:
                console.print(f"{error} The job goes on; asking again.")
                told = True
            time.sleep(POLL_S)
        else:
            return job


def _draw(bar: Progress, task: TaskID, job: Mapping[str, Any]) -> None:
    progress = job["progress"]
    bar.update(
        task,
        description=_label(job),
        completed=progress["step"],
        total=progress["total_steps"],
        loss=_number(progress["loss"], ".3f"),
        speed=_number(progress["tokens_per_second"], ".0f"),
        left=_clock(progress["eta_seconds"]),
    )


def _label(job: Mapping[str, Any]) -> str:
    reason = f" ({job['status_reason']})" if job.get("status_reason") and job["status"] == "queued" else ""
    return str(job["phase"] if job["status"] == "running" else job["status"]) + reason


def _line(job: Mapping[str, Any]) -> str:
    progress = job["progress"]
    loss, speed = _number(progress["loss"], ".3f"), _number(progress["tokens_per_second"], ".0f")
    step = f"step {progress['step']}/{progress['total_steps'] or '?'}"
    return f"{_label(job)}  {step}  loss {loss}  {speed} tokens/s  {_clock(progress['eta_seconds'])} left"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
