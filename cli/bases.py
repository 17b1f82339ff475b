"""`bluelora import` and `bluelora bases`."""

import os
from pathlib import Path
from typing import Annotated

import typer

from cli import imports, places, remote
from cli.options import DataDirOption
from cli.screen import screen

app = typer.Typer(name="bases", help="Bases: list, show.", no_args_is_help=True)


def import_command(
    source: Annotated[str, typer.Argument(help="A folder, or a hub id such as vivo-ai/BlueLM-7B-Chat.")],
    name: Annotated[str, typer.Option(help="Name of the base.")],
    data_dir: DataDirOption = None,
) -> None:
    """Turn a BlueLM checkpoint into a verified Llama checkpoint, and register it as a base."""
    data = places.chosen(data_dir)
    imports.migrate(data)
    folder = Path(source)
    where = folder.absolute() if folder.exists() or source.startswith((".", os.sep)) else source
    screen.thing(imports.run(where, name=name, data=data, console=screen.console))


@app.command("list")
def list_(data_dir: DataDirOption = None) -> None:
    """List the imported bases."""
    answer = remote.service(places.chosen(data_dir)).get("/bases")
    screen.rows(answer["data"], ("id", "name", "parameters", "bytes", "context_length", "fingerprint"), answer=answer)


@app.command()
def show(base: Annotated[str, typer.Argument(help="base_… or name.")], data_dir: DataDirOption = None) -> None:
    """Show one base."""
    screen.thing(remote.service(places.chosen(data_dir)).get(f"/bases/{base}"))
