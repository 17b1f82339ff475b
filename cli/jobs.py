"""`bluelora jobs`: plan, create, watch, list, show, events, metrics, cancel."""

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli import places, plans, remote, watch
from cli.options import AfterOption, DataDirOption, LimitOption, MetadataOption, pairs
from cli.screen import JobFailed, Refused, screen
from core.domain.training import TrainSpec

FIELDS = ", ".join(
    f"--{name.replace('_', '-')}" for name in TrainSpec.model_fields if name not in ("metadata", "spec_version")
)

PLAN_S: Final = 90.0
"""Rendering a large data set takes a while."""

app = typer.Typer(
    name="jobs", help="Jobs: plan, create, watch, list, show, events, metrics, cancel.", no_args_is_help=True
)
JobArgument = Annotated[str, typer.Argument(help="job_…")]
WatchOption = Annotated[bool, typer.Option("--watch", help="Show live progress until the job has ended.")]


SPEC: Final[dict[str, Any]] = {
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True},
    "epilog": f"Every field of the job spec is an option: {FIELDS}.",
}
FileOption = Annotated[Path | None, typer.Option(help="A JSON job spec; options win over it.", show_default=False)]


@app.command(**SPEC)
def plan(
    context: typer.Context, file: FileOption = None, metadata: MetadataOption = None, data_dir: DataDirOption = None
) -> None:
    """Say what a training job would do, with the options of `create`: tokens, steps, memory, time, what is learnt."""
    spec = _spec(context, file, metadata)
    made = remote.service(places.chosen(data_dir)).post("/jobs/plan", spec, timeout_s=PLAN_S)
    if screen.json:
        screen.document(made)
    else:
        plans.show(made, screen.console)


@app.command(**SPEC)
def create(
    context: typer.Context,
    file: FileOption = None,
    metadata: MetadataOption = None,
    watch_: WatchOption = False,
    data_dir: DataDirOption = None,
) -> None:
    """Queue a training job, e.g. `--dataset NAME --name ADAPTER --learning-rate 2e-3 --watch`."""
    spec = _spec(context, file, metadata)
    service = remote.service(places.chosen(data_dir))
    job = service.post("/jobs", spec)
    if watch_:
        _follow(service, job["id"])
    else:
        screen.thing(job)


@app.command("watch")
def watch_job(job: JobArgument, data_dir: DataDirOption = None) -> None:
    """Show a job's live progress until it has ended."""
    _follow(remote.service(places.chosen(data_dir)), job)


@app.command("list")
def list_(
    status: Annotated[str | None, typer.Option(help="Only jobs of this status.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs for this adapter name.", show_default=False)] = None,
    limit: LimitOption = 20,
    after: AfterOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List jobs, newest first."""
    service = remote.service(places.chosen(data_dir))
    answer = service.get("/jobs", status=status, name=name, limit=limit, after=after)
    columns = ("id", "name", "status", "phase", "progress.step", "progress.total_steps", "progress.loss", "created_at")
    screen.rows(answer["data"], columns, answer=answer)


@app.command()
def show(job: JobArgument, data_dir: DataDirOption = None) -> None:
    """Show one job."""
    screen.thing(remote.service(places.chosen(data_dir)).get(f"/jobs/{job}"))


@app.command()
def events(
    job: JobArgument, limit: LimitOption = 100, after: AfterOption = None, data_dir: DataDirOption = None
) -> None:
    """Print a job's event log, oldest first."""
    answer = remote.service(places.chosen(data_dir)).get(f"/jobs/{job}/events", limit=limit, after=after)
    screen.rows(answer["data"], ("seq", "created_at", "level", "type", "message"), answer=answer)


@app.command()
def metrics(job: JobArgument, data_dir: DataDirOption = None) -> None:
    """Print loss, learning rate, gradient norm and speed by step."""
    answer = remote.service(places.chosen(data_dir)).get(f"/jobs/{job}/metrics")
    columns = ("step", "epoch", "loss", "eval_loss", "learning_rate", "grad_norm", "tokens_per_second")
    screen.rows(answer["data"], columns, answer=answer)


@app.command()
def cancel(job: JobArgument, data_dir: DataDirOption = None) -> None:
    """Ask a job to stop; a running one stops at the end of its step."""
    screen.thing(remote.service(places.chosen(data_dir)).post(f"/jobs/{job}/cancel", {}))


def _spec(context: typer.Context, file: Path | None, metadata: list[str] | None) -> dict[str, Any]:
    """Put a spec together from a file, options and metadata."""
    spec = _read(file) if file else {}
    spec |= spec_options(context.args)
    if metadata:
        spec["metadata"] = pairs(metadata)
    return spec


def spec_options(arguments: list[str]) -> dict[str, Any]:
    """Read `--field value` and `--field=value` into spec fields; the service checks them.

    A value that is JSON is taken as such (numbers, lists, true, null), anything else as text.

    Raises:
        Refused: An option without a value, or a stray word.
    """
    spec: dict[str, Any] = {}
    waiting = iter(arguments)
    for word in waiting:
        if not word.startswith("--"):
            raise Refused(f"{word!r} belongs to no option; spec fields are written --field value.")
        name, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            value = next(waiting, "")
        if not value:
            raise Refused(f"--{name} needs a value.")
        field = name.replace("-", "_")
        spec[field] = value if _is_text(field) else _json_or_text(value)
    return spec


def _is_text(field: str) -> bool:
    return field in {"dataset", "name", "base_model", "system_prompt", "validation_dataset"}


def _json_or_text(value: str) -> Any:  # noqa: ANN401
    try:
        found = json.loads(value)
        json.dumps(found, allow_nan=False)  # NaN and 1e999 are no JSON: the service shall say so
    except ValueError:
        return value
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        spec = json.loads(file.read_bytes())
        json.dumps(spec, allow_nan=False)
    except ValueError as error:
        raise Refused(f"{file} is not JSON: {error}.") from error
    if not isinstance(spec, dict):
        raise Refused(f"{file} holds no JSON object.")
    return spec


def _follow(service: remote.Service, job_id: str) -> None:
    job = watch.follow(service, job_id, console=screen.console)
    screen.thing(job)
    if job["status"] != "succeeded":
        failure = job.get("failure") or {}
        raise JobFailed(f"{job_id} {job['status']}: {failure.get('message', 'no adapter was made')}", problem=failure)
