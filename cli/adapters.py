"""`bluelora adapters`: list, show, download, delete, alias, unalias."""

from pathlib import Path
from typing import Annotated

import typer

from cli import places, remote
from cli.options import AfterOption, DataDirOption, LimitOption
from cli.screen import screen

app = typer.Typer(name="adapters", help="Adapters: list, show, download, delete, alias.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(help="ad_…, name, name@N, name@alias, job_…@latest or job_…@step-N.")]
Name = Annotated[str, typer.Argument(help="The adapter's name.")]
Alias = Annotated[str, typer.Argument(help="A movable name, such as prod.")]


@app.command("list")
def list_(
    name: Annotated[str | None, typer.Option(help="Only this name's versions.", show_default=False)] = None,
    limit: LimitOption = 20,
    after: AfterOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List adapters, newest first."""
    answer = remote.service(places.chosen(data_dir)).get("/adapters", name=name, limit=limit, after=after)
    screen.rows(
        answer["data"], ("id", "name", "version", "kind", "aliases", "base", "job", "created_at"), answer=answer
    )


@app.command()
def show(adapter: Reference, data_dir: DataDirOption = None) -> None:
    """Show one adapter and its files."""
    screen.thing(remote.service(places.chosen(data_dir)).get(f"/adapters/{adapter}"))


@app.command()
def download(
    adapter: Reference,
    folder: Annotated[Path, typer.Argument(help="Where the files go; peft's PeftModel.from_pretrained loads it.")],
    data_dir: DataDirOption = None,
) -> None:
    """Download an adapter's files in peft's layout."""
    service = remote.service(places.chosen(data_dir))
    found = service.get(f"/adapters/{adapter}")
    folder.mkdir(parents=True, exist_ok=True)
    for file in found["files"]:
        service.download(f"/adapters/{found['id']}/files/{file['name']}", folder / file["name"])
    screen.thing({"adapter": found["id"], "folder": str(folder), "files": [file["name"] for file in found["files"]]})


@app.command()
def delete(adapter: Reference, data_dir: DataDirOption = None) -> None:
    """Delete an adapter that no alias points to."""
    remote.service(places.chosen(data_dir)).delete(f"/adapters/{adapter}")
    screen.say(f"Deleted {adapter}.")


@app.command()
def alias(
    name: Name,
    alias: Alias,
    version: Annotated[int, typer.Argument(min=1, help="The version it shall mean.")],
    data_dir: DataDirOption = None,
) -> None:
    """Make `name@alias` mean a version, at once for every later request."""
    service = remote.service(places.chosen(data_dir))
    screen.thing(service.put(f"/adapters/{name}/aliases/{alias}", {"version": version}))


@app.command()
def unalias(name: Name, alias: Alias, data_dir: DataDirOption = None) -> None:
    """Take an alias away."""
    remote.service(places.chosen(data_dir)).delete(f"/adapters/{name}/aliases/{alias}")
    screen.say(f"{name}@{alias} is gone.")
