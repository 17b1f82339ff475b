"""Imports: a conversion, then the base's bytes and row.

Works on the stores directly, so it needs no running service; whoever may write there may import.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from cli.places import ROOT, DataDir, secret_file
from cli.processes import python
from cli.screen import Refused
from cli.workshops import Order, Workshop
from core import runtime
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


def run(
    source: Path | str,
    *,
    name: str,
    data: DataDir,
    console: Console,
    hub: str = "hf",
    revision: str | None = None,
) -> Mapping[str, Any]:
    """Convert a checkpoint, store its files and register it as a base; the same files again change nothing.

    Two imports of one name wait for each other. One that was killed or interrupted goes on when it is run again.

    Args:
        source: A folder, or a hub id.
        name: Of the base.
        data: Where stores are, and where the work is done.
        console: Shows the bars.
        hub: Where a hub id is looked up: hf or modelscope.
        revision: A branch, tag or commit there; None is the default branch.

    Returns:
        What the converter said, with `id`.

    Raises:
        Refused: The checkpoint was refused, or the name belongs to another one.
        InvalidBaseName: The name can't be used in a reference.
    """
    # First of all, as the name becomes a folder's that is cleared.
    check_name(name)
    workshop = Workshop(data.bases, name)
    with workshop.alone(console), tempfile.TemporaryDirectory(prefix="bluelora-") as aside:
        with opened(data) as open_runtime:
            order = Order(
                source=str(source),
                hub=hub,
                revision=revision,
                registered=bases.fetch_record(
                    name, Path(aside) / "base", store=open_runtime.store, database=open_runtime.database
                ),
                copies=1 + workshop.shares_disk_with(open_runtime.store.folder),
            )
        result = workshop.convert(order, console=console)
        with opened(data) as open_runtime:
            base = _register(workshop, result, console=console, open_runtime=open_runtime)
            folder = bases.fetch(base, store=open_runtime.store, cache_dir=open_runtime.cache_dir)
        workshop.clear()
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


def _register(workshop: Workshop, result: Mapping[str, Any], *, console: Console, open_runtime: Runtime) -> Base:
    store, database = open_runtime.store, open_runtime.database
    if result["path"] != str(workshop.folder):  # the converter found that the base is registered already
        return bases.get(workshop.name, database=database)
    with workshop.bar(console) as show:
        base = bases.register_folder(
            workshop.folder,
            imported=result,
            name=workshop.name,
            store=store,
            database=database,
            stored=partial(show, "storing"),
        )
    # Moved, as a second copy would cost as much again; whoever has one there already keeps it.
    with contextlib.suppress(OSError, bundles.BundleExists):
        bundles.publish(workshop.folder, open_runtime.cache_dir / base.fingerprint)
    return base
