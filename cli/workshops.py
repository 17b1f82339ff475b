"""Where an import works: a folder beside its name, one import at a time, the converter as a child with its bars.

The child needs torch, we do not. Knows no stores and no rows.
"""

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from cli.places import ROOT
from cli.processes import python
from cli.screen import Refused
from core import tether

RECORD: Final = "import.json"
Show = Callable[[str, int, int], None]
"""Called with the phase, the bytes done and the bytes to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the converter is asked for (core/ml/importing.py)."""

    source: str
    hub: str
    revision: str | None
    registered: Path | None
    copies: int


class Workshop:
    """The working folder of one base's imports; no base is called like the entries beside it, which start with a dot."""

    def __init__(self, parent: Path, name: str) -> None:
        self.name = name
        self.folder = parent / name

    @contextlib.contextmanager
    def alone(self, console: Console) -> Iterator[None]:
        """Hold the name against other imports, waiting for one that runs."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self._beside("lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                console.print(f"Another import of {self.name} is running; waiting for it.", soft_wrap=True)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def shares_disk_with(self, folder: Path | None) -> bool:
        """Say whether a store's folder is on the disk that conversions are written to."""
        return folder is not None and folder.stat().st_dev == self.folder.parent.stat().st_dev

    def convert(self, order: Order, *, console: Console) -> dict[str, Any]:
        """Run the converter to its end; its folder is there afterwards, unless the base is registered already.

        Raises:
            Refused: It refused the checkpoint, or broke off.
        """
        if self.folder.exists() and not (self.folder / RECORD).exists():
            shutil.rmtree(self.folder)  # what no import finished
        command = tether.command(python("core.ml.importing", *self._arguments(order)))
        log = self._beside("log")
        last: dict[str, Any] = {}
        with (
            log.open("ab") as errors,
            subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=subprocess.PIPE, stderr=errors) as child,
            self.bar(console) as show,
        ):
            for line in child.stdout or ():
                last = json.loads(line)
                if "progress" in last:
                    show(last["progress"]["phase"], last["progress"]["done_bytes"], last["progress"]["total_bytes"])
        if "error" in last:
            raise Refused(last["error"]["message"], problem=last["error"])
        if child.returncode or "fingerprint" not in last:
            raise Refused(
                f"The import of {order.source} broke off (exit code {child.returncode}); see {log}. "
                "Run it again to go on with it."
            )
        log.unlink()
        return last

    @contextlib.contextmanager
    def bar(self, console: Console) -> Iterator[Show]:
        """Show a bar over bytes for each phase."""
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bars:
            tasks = {}

            def show(phase: str, done: int, total: int) -> None:
                if phase not in tasks:
                    tasks[phase] = bars.add_task(f"{phase} {self.name}", total=total)
                bars.update(tasks[phase], completed=done, total=total)

            yield show

    def clear(self) -> None:
        """Remove what a finished import leaves: its folder, if it was not moved, and its downloads."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.folder.parent / ".downloads" / self.name, ignore_errors=True)

    def _arguments(self, order: Order) -> list[str]:
        given = [order.source, str(self.folder), "--name", self.name, "--hub", order.hub, "--copies", str(order.copies)]
        given += ["--revision", order.revision] if order.revision is not None else []
        given += ["--registered", str(order.registered)] if order.registered is not None else []
        return given

    def _beside(self, ending: str) -> Path:
        return self.folder.with_name(f".{self.name}.{ending}")
