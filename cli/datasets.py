"""`bluelora datasets`: upload, list, show, delete."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.progress import wrap_file

from cli import places, remote, summaries
from cli.options import AfterOption, DataDirOption, LimitOption, MetadataOption, pairs
from cli.screen import Refused, screen

POLL_S: Final = 1.0

app = typer.Typer(name="datasets", help="Data sets: upload, list, show, delete.", no_args_is_help=True)


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(help="JSON array or JSON lines.")],
    name: Annotated[str | None, typer.Option(help="Name; default the file's.", show_default=False)] = None,
    metadata: MetadataOption = None,
    wait: Annotated[bool, typer.Option(help="Wait for a check that takes longer than the upload.")] = True,
    data_dir: DataDirOption = None,
) -> None:
    """Upload and validate a file; prints what was found in it."""
    if not file.is_file():
        raise Refused(f"{file} is no file.")
    query = {"name": name or places.plain_name(file.stem), "filename": file.name}
    if metadata:
        query["metadata"] = json.dumps(pairs(metadata))
    service = remote.service(places.chosen(data_dir))
    size = file.stat().st_size
    with (
        file.open("rb") as raw,
        wrap_file(raw, size, description="uploading", console=screen.console, transient=True) as body,
    ):
        dataset = service.upload("/datasets", body, query=query)
    if wait and dataset["status"] == "processing":
        dataset = _settled(service, dataset["id"])
    _show(dataset)
    if dataset["status"] == "invalid":
        raise Refused(f"{dataset['reference']} can't be trained on.", problem={"code": "invalid_dataset"} | dataset)


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Option(help="Only this name's versions.", show_default=False)] = None,
    limit: LimitOption = 20,
    after: AfterOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List data sets, newest first."""
    answer = remote.service(places.chosen(data_dir)).get("/datasets", name=name, limit=limit, after=after)
    screen.rows(
        answer["data"], ("id", "name", "version", "status", "summary.rows", "bytes", "created_at"), answer=answer
    )


@app.command()
def show(dataset: Annotated[str, typer.Argument(help="ds_…, name or name@N.")], data_dir: DataDirOption = None) -> None:
    """Show one data set and its summary."""
    _show(remote.service(places.chosen(data_dir)).get(f"/datasets/{dataset}"))


@app.command()
def delete(
    dataset: Annotated[str, typer.Argument(help="ds_…, name or name@N.")], data_dir: DataDirOption = None
) -> None:
    """Delete a data set that no unfinished job needs."""
    remote.service(places.chosen(data_dir)).delete(f"/datasets/{dataset}")
    screen.say(f"Deleted {dataset}.")


def _settled(service: remote.Service, dataset_id: str) -> Mapping[str, Any]:
    with screen.console.status("checking every row"):
        while True:
            dataset: Mapping[str, Any] = service.get(f"/datasets/{dataset_id}")
            if dataset["status"] != "processing":
                return dataset
            time.sleep(POLL_S)


def _show(dataset: Mapping[str, Any]) -> None:
    if screen.json:
        screen.document(dataset)
    else:
        summaries.show(dataset, screen.console)
