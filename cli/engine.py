"""`bluelora engine`: lays a base out on this host and becomes the engine that serves it."""

import os
import shutil
from pathlib import Path
from typing import Annotated, Final, NoReturn

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
RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The only values that vLLM 0.32 takes for `--max-lora-rank`."""
VLLM_FLAGS: Final = (
    "--enable-lora",
    "--max-loras",
    "8",  # the places of the embedded engine; vLLM's own default answers with one adapter at a time
    "--max-num-queued-reqs",
    "512",  # vLLM's queue has no end by default; full, it says so at once
    "--generation-config",
    "vllm",  # what a request leaves open means nothing, whatever the base's generation_config.json advises
)
VLLM_ENVIRONMENT: Final = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
FURTHER: Final = {"allow_extra_args": True, "ignore_unknown_options": True}

KeyFileOption = Annotated[
    Path | None,
    typer.Option(help="File with the key that the API sends (BLUELORA_ENGINE_API_KEY_FILE there).", show_default=False),
]


@app.command(context_settings=FURTHER)
def embedded(
    *,
    context: typer.Context,
    base: BaseOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8001,
    api_key_file: KeyFileOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Serve a base and its adapters on transformers and peft; further options go to `python -m worker.engine`."""
    data = places.chosen(data_dir)
    found, folder = imports.folder_of(base, data=data)
    key = ["--api-key-file", str(api_key_file.absolute())] if api_key_file else []
    serving = ["--served-name", found.name, "--host", host, "--port", str(port), *key]
    rank = ["--max-lora-rank", str(_max_lora_rank(data))]
    os.chdir(ROOT)
    _become(python("worker.engine", "--base-dir", str(folder), *serving, *rank, *context.args))


@app.command(context_settings=FURTHER)
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
            "vLLM is not installed here. Install it in an environment of its own, and put that on the PATH; or use "
            "`bluelora engine embedded`."
        )
    data = places.chosen(data_dir)
    rank = _vllm_rank(_max_lora_rank(data))
    found, folder = imports.folder_of(base, data=data)
    os.environ.update(VLLM_ENVIRONMENT)
    if api_key_file:
        os.environ["VLLM_API_KEY"] = api_key_file.read_text().strip()
    serving = ["--served-model-name", found.name, "--host", host, "--port", str(port)]
    # What was given comes last, since vLLM goes by the last of several.
    _become([program, "serve", str(folder), *serving, *VLLM_FLAGS, "--max-lora-rank", str(rank), *context.args])


@app.command("lay-out")
def lay_out(
    folder: Annotated[Path, typer.Argument(help="The base goes into a folder of its name in here.")],
    base: BaseOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Lay a base's files out in a folder, for an engine that reads them by path."""
    target = imports.lay_out(base, folder, data=places.chosen(data_dir))
    screen.thing({"base": target.name, "path": str(target)})


def _max_lora_rank(data: DataDir) -> int:
    """The limit that the API holds jobs to, so that engines load whatever they make."""
    return Settings(data_dir=data.path).max_lora_rank


def _vllm_rank(wanted: int) -> int:
    """Give the smallest rank that vLLM takes and that is enough."""
    enough = next((rank for rank in RANKS if rank >= wanted), None)
    if enough is None:
        raise Refused(f"vLLM serves ranks up to {RANKS[-1]}; BLUELORA_MAX_LORA_RANK is {wanted}.")
    return enough


def _become(command: list[str]) -> NoReturn:
    os.execv(command[0], command)  # noqa: S606  (no shell is wanted)
