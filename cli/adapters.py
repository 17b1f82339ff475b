"""`bluelora adapters`: import, list, show, download, delete, alias, unalias."""

import json
import re
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import wrap_file

from cli import places, remote
from cli.options import AfterOption, DataDirOption, LimitOption, MetadataOption, pairs
from cli.screen import Refused, screen
from core.domain.loras import CONFIG, WEIGHTS
from core.domain.loraweights import SAVE_AGAIN

app = typer.Typer(name="adapters", help="Adapters: import, list, show, download, delete, alias.", no_args_is_help=True)
Reference = Annotated[str, typer.Argument(help="ad_…, name, name@N, name@alias, job_…@latest or job_…@step-N.")]
Name = Annotated[str, typer.Argument(help="The adapter's name.")]
Alias = Annotated[str, typer.Argument(help="A movable name, such as prod.")]


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(help="What peft's save_pretrained wrote; two files of it are sent.")],
    *,
    name: Annotated[str, typer.Option(help="What the adapter shall be called.")],
    base: Annotated[
        str | None, typer.Option(help="The base it was trained on; default the configured one.", show_default=False)
    ] = None,
    system_prompt: Annotated[
        str | None, typer.Option(help="Applied when it answers: text, or @FILE.", show_default=False)
    ] = None,
    metadata: MetadataOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Import an adapter that was trained elsewhere; the service checks it while it arrives."""
    _check_there(folder)
    fields = {"name": name}
    if base is not None:
        fields["base"] = base
    if system_prompt is not None:
        fields["system_prompt"] = _text(system_prompt)
    if metadata:
        fields["metadata"] = json.dumps(pairs(metadata))
    if (template_hash := _template_hash(folder)) is not None:
        fields["template_hash"] = template_hash
    if others := sorted(path.name for path in folder.iterdir() if path.name not in {CONFIG, WEIGHTS}):
        screen.say(f"Not sent, as {CONFIG} and {WEIGHTS} are an adapter: {', '.join(others)}")
    service = remote.service(places.chosen(data_dir))
    size = (folder / WEIGHTS).stat().st_size
    with (
        (folder / CONFIG).open("rb") as config,
        (folder / WEIGHTS).open("rb") as raw,
        wrap_file(raw, size, description="importing", console=screen.console, transient=True) as weights,
    ):
        screen.thing(service.form("/adapters", fields, [(CONFIG, config), (WEIGHTS, weights)]))


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


def _check_there(folder: Path) -> None:
    if not folder.is_dir():
        raise Refused(f"{folder} is no folder.")
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            if file == WEIGHTS and (folder / "adapter_model.bin").is_file():
                raise Refused(
                    f"{folder} has its weights as adapter_model.bin, a pickle, which is never sent. "
                    f"If you trust it, save it as safetensors there: {SAVE_AGAIN}"
                )
            raise Refused(f"{folder} has no {file}; name the folder that peft's save_pretrained wrote.")


def _template_hash(folder: Path) -> str | None:
    """What a manifest of ours says of the chat format; adapters made elsewhere have none."""
    try:
        known = json.loads((folder / "manifest.json").read_bytes())["template_hash"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return known if isinstance(known, str) and re.fullmatch(r"[0-9a-f]{64}", known) else None


def _text(given: str) -> str:
    if not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"{given[1:]} can't be read as text: {type(error).__name__}.") from error
