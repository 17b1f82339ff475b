"""`bluelora datasets`: upload, list, show (rows too), delete."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import wrap_file
from rich.text import Text

from cli import places, plans, remote
from cli.options import AfterOption, DataDirOption, LimitOption, MetadataOption, pairs
from cli.screen import Refused, screen

app = typer.Typer(name="datasets", help="Data sets: upload, list, show, delete.", no_args_is_help=True)


DatasetArgument = Annotated[str, typer.Argument(help="ds_…, name or name@N.")]


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(help="JSON array or JSON lines.")],
    name: Annotated[str | None, typer.Option(help="Name; default the file's.", show_default=False)] = None,
    metadata: MetadataOption = None,
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
        screen.thing(service.upload("/datasets", body, query=query))


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
def show(
    dataset: DatasetArgument,
    *,
    rows: Annotated[bool, typer.Option("--rows", help="Show its rows, a page at a time.")] = False,
    rendered: Annotated[bool, typer.Option("--rendered", help="Show rows as a base is trained on them.")] = False,
    base_model: Annotated[
        str | None, typer.Option(help="That base; default the service's.", show_default=False)
    ] = None,
    system_prompt: Annotated[str | None, typer.Option(help="As in a job.", show_default=False)] = None,
    limit: LimitOption = 20,
    after: AfterOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show one data set and its summary, or page through its rows."""
    service = remote.service(places.chosen(data_dir))
    if not (rows or rendered):
        screen.thing(service.get(f"/datasets/{dataset}"))
        return
    query: dict[str, str | int | None] = {"limit": limit, "after": after}
    if rendered:
        query |= {"rendered": "true", "base_model": base_model, "system_prompt": system_prompt}
    page = service.get(f"/datasets/{dataset}/rows", **query)
    if screen.json:
        screen.document(page)
        return
    for row in page["data"]:
        _show_row(row)
    if page["has_more"]:
        screen.say(f"… more: --after {page['data'][-1]['id']}")


@app.command()
def delete(dataset: DatasetArgument, data_dir: DataDirOption = None) -> None:
    """Delete a data set that no unfinished job needs."""
    remote.service(places.chosen(data_dir)).delete(f"/datasets/{dataset}")
    screen.say(f"Deleted {dataset}.")


def _show_row(row: Mapping[str, Any]) -> None:
    rendered = row["rendered"] or {}
    tokens = rendered.get("tokens")
    count = f": {tokens['total']} tokens, {tokens['trained']} of them learnt" if tokens else ""
    screen.say(f"row {row['row']}, line {row['line']}{count}")
    if tokens:
        plans.pieces(rendered["pieces"], screen.console)
    else:
        plans.turns(row["turns"], screen.console)
        if problem := rendered.get("problem"):
            screen.console.print(Text.assemble(("  ! ", "yellow"), problem), soft_wrap=True)
