"""Imports: the converter as a child process (it needs torch, we do not), then the base's bytes and row.

Works on the stores directly, so it needs no running service; whoever may write there may import.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cli.places import ROOT, DataDir, secret_file
from cli.processes import python
from cli.screen import Refused
from core import runtime, tether
from core.domain.bases import Base, check_name
from core.runtime import Runtime
from core.services import bases, keys
from core.settings import Settings
from core.storage import bundles


@contextlib.contextmanager
def opened(data: DataDir) -> Iterator[Runtime]:
    """The stores of a data directory, or those that BLUELORA_* variables name; closed at the end."""
    with runtime.build(Settings(data_dir=data.path)) as open_runtime:
        yield open_runtime


def run(source: Path | str, *, name: str, data: DataDir, console: Console) -> Mapping[str, Any]:
    """Convert a checkpoint, store its files and register it as a base.

    Returns:
        What the converter said, with `id`.

    Raises:
        Refused: The checkpoint was refused, or the name belongs to another one.
        InvalidBaseName: The name can't be used in a reference.
    """
    # First of all, as the name becomes a folder's that is cleared.
    check_name(name)
    target = data.bases / name
    try:
        result = _convert(source, target, name=name, console=console)
        with opened(data) as open_runtime:
            base = bases.register_folder(
                target, imported=result, name=name, store=open_runtime.store, database=open_runtime.database
            )
            folder = bases.fetch(base, store=open_runtime.store, cache_dir=open_runtime.cache_dir)
    finally:
        shutil.rmtree(target, ignore_errors=True)
    return {**result, "id": base.id, "path": str(folder)}


def migrate(data: DataDir, environment: Mapping[str, str] | None = None) -> None:
    """Bring the database up to date, by the command that an operator would run.

    Raises:
        Refused: It could not be done.
        ValidationError: A BLUELORA_* variable is set wrongly.
    """
    Settings(data_dir=data.path)  # what is set wrongly is named here; the command's own words would be lost
    data.path.mkdir(parents=True, exist_ok=True)
    variables = os.environ | {"BLUELORA_DATA_DIR": str(data.path)} | dict(environment or {})
    done = subprocess.run(
        python("migrations", "upgrade"), cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise Refused(f"The database could not be brought up to date: {last[0]}")


def known(data: DataDir) -> tuple[Base, ...]:
    """Every imported base."""
    with opened(data) as open_runtime:
        return bases.everything(database=open_runtime.database)


def folder_of(name: str | None, *, data: DataDir) -> tuple[Base, Path]:
    """The named base, or the only one, with its files in the cache.

    Raises:
        Refused: None of that name, or several and none named.
    """
    with opened(data) as open_runtime:
        base = bases.default(name or open_runtime.settings.base, database=open_runtime.database)
        return base, bases.fetch(base, store=open_runtime.store, cache_dir=open_runtime.cache_dir)


def lay_out(name: str | None, folder: Path, *, data: DataDir) -> Path:
    """Bring a base's files into `folder/<its name>`, verified; a whole copy that is there is kept."""
    with opened(data) as open_runtime:
        base = bases.default(name or open_runtime.settings.base, database=open_runtime.database)
        return bundles.fetch(base.files, folder.absolute() / base.name, open_runtime.store)


def make_admin_key(data: DataDir) -> str:
    """The data directory's admin key, made on first use."""
    return secret_file(data.admin_key_file, make=keys.new_secret())


def _convert(source: Path | str, target: Path, *, name: str, console: Console) -> dict[str, Any]:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        shutil.rmtree(target)  # of an import that was cut off before its base was registered
    command = tether.command(python("core.ml.convert", str(source), str(target), "--name", name))
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    log = target.with_name(f".{name}.log")  # no base is called so
    with (
        log.open("ab") as errors,
        subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=subprocess.PIPE, stderr=errors) as child,
        Progress(*columns, console=console, transient=True) as bar,
    ):
        task = bar.add_task(f"importing {name}", total=None)
        last: dict[str, Any] = {}
        for line in child.stdout or ():
            last = json.loads(line)
            if "progress" in last:
                bar.update(task, completed=last["progress"]["done_bytes"], total=last["progress"]["total_bytes"])
    if "error" in last:
        raise Refused(last["error"]["message"], problem=last["error"])
    if child.returncode or "fingerprint" not in last:
        raise Refused(f"The import of {source} broke off (exit code {child.returncode}); see {log}.")
    return last


def _environment() -> dict[str, str]:
    return os.environ | {"HF_HUB_DISABLE_TELEMETRY": "1"}
