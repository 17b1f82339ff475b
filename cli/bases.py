"""`bluelora import` and `bluelora bases`."""

import enum
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from cli import imports, places, remote
from cli.options import DataDirOption
from cli.screen import screen


class Hub(enum.Enum):
    """The hubs that ids are looked up on."""

    HF = "hf"
    MODELSCOPE = "modelscope"


_TOLD_APART: Final = ("files", "checks", "notes", "max_ulp", "reused", "already_llama")

app = typer.Typer(name="bases", help="Bases: list, show.", no_args_is_help=True)


def import_command(
    source: Annotated[str, typer.Argument(help="A folder, or a hub id such as vivo-ai/BlueLM-7B-Chat.")],
    name: Annotated[str, typer.Option(help="Name of the base.")],
    hub: Annotated[Hub, typer.Option(help="Where a hub id is looked up.")] = Hub.HF,
    revision: Annotated[
        str | None, typer.Option(help="A branch, tag or commit of the hub's repository.", show_default=False)
    ] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Turn a BlueLM checkpoint into a verified Llama checkpoint, and register it as a base."""
    data = places.chosen(data_dir)
    imports.migrate(data)
    folder = Path(source)
    where = folder.absolute() if folder.exists() or source.startswith((".", os.sep)) else source
    done = imports.run(where, name=name, data=data, console=screen.console, hub=hub.value, revision=revision)
    if screen.json:
        screen.document(done)
    else:
        _tell(done)


@app.command("list")
def list_(data_dir: DataDirOption = None) -> None:
    """List the imported bases."""
    answer = remote.service(places.chosen(data_dir)).get("/bases")
    screen.rows(answer["data"], ("id", "name", "parameters", "bytes", "context_length", "fingerprint"), answer=answer)


@app.command()
def show(base: Annotated[str, typer.Argument(help="base_… or name.")], data_dir: DataDirOption = None) -> None:
    """Show one base."""
    screen.thing(remote.service(places.chosen(data_dir)).get(f"/bases/{base}"))


def _tell(done: Mapping[str, Any]) -> None:
    if done["reused"]:
        screen.say(f"Nothing to do: {done['name']} is imported already, from these very files.")
    screen.thing({name: value for name, value in done.items() if name not in _TOLD_APART})
    if done["max_ulp"] is not None:
        screen.say(
            f"Largest difference of a folded embedding row from the LayerNorm, over all {done['rows']} rows: "
            f"{done['max_ulp']:g} units in the last place ({done['dtype']})."
        )
    for check in done["checks"]:
        screen.say(f"Checked: {check}.")
    for note in done["notes"]:
        screen.say(f"Note: {note}")
