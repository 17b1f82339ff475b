"""`bluelora engine`: lays a base out on this host and becomes the engine that serves it."""

import os
import shutil
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli import imports, places
from cli.options import DataDirOption
from cli.places import ROOT, DataDir
from cli.processes import python
from cli.screen import Refused, screen
from core.settings import Settings

app = typer.Typer(name="engine", help="Engines: embedded (transformers and peft), or vllm.", no_args_is_help=True)
BaseOption = Annotated[str | None, typer.Option(help="Base to serve; default the only one.", show_default=False)]
HostOption = Annotated[str, typer.Option(help="Address to serve on.")]
PortOption = Annotated[int, typer.Option(min=1, max=65535, help="Port to serve on.")]
KeyFileOption = Annotated[
    Path | None,
    typer.Option(help="File with the key that the API sends (BLUELORA_ENGINE_API_KEY_FILE there).", show_default=False),
]


@app.command()
def embedded(
    base: BaseOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8001,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve a base and its adapters on transformers and peft."""
    data = places.chosen(data_dir)
    found, folder = imports.folder_of(base, data=data)
    key = ["--api-key-file", str(api_key_file.absolute())] if api_key_file else []
    serving = ["--served-name", found.name, "--host", host, "--port", str(port), *key]
    os.chdir(ROOT)
    _become(python("worker.engine", "--base-dir", str(folder), *serving, "--max-lora-rank", _max_lora_rank(data)))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def vllm(
    *,
    context: typer.Context,
    base: BaseOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8001,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve a base and its adapters on vLLM, which must be installed; further options go to `vllm serve`."""
    program = shutil.which("vllm")
    if program is None:
        raise Refused(
            "vLLM is not installed here. Install it in an environment of its own, or use `bluelora engine embedded`."
        )
    data = places.chosen(data_dir)
    found, folder = imports.folder_of(base, data=data)
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if api_key_file:
        os.environ["VLLM_API_KEY"] = api_key_file.read_text().strip()
    serving = ["--served-model-name", found.name, "--host", host, "--port", str(port)]
    _become(
        [
            program,
            "serve",
            str(folder),
            *serving,
            "--enable-lora",
            "--max-lora-rank",
            _max_lora_rank(data),
            *context.args,
        ]
    )


@app.command("lay-out")
def lay_out(
    folder: Annotated[Path, typer.Argument(help="The base goes into a folder of its name in here.")],
    base: BaseOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Lay a base's files out in a folder, for an engine that reads them by path."""
    target = imports.lay_out(base, folder, data=places.chosen(data_dir))
    screen.thing({"base": target.name, "path": str(target)})


def _max_lora_rank(data: DataDir) -> str:
    """The limit that the API holds jobs to, so that engines load whatever they make."""
    return str(Settings(data_dir=data.path).max_lora_rank)


def _become(command: list[str]) -> NoReturn:
    os.execv(command[0], command)  # noqa: S606  (no shell is wanted)
