"""`python -m core.ml.importing SOURCE TARGET --name NAME`: one import as a child process.

Prints JSON lines: `{"progress": {"phase", "done_bytes", "total_bytes"}}`, and last the import, or
`{"error": {"code", "message"}}` with exit status 3. SOURCE is a folder or a hub id.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import httpx

from core.errors import Problem
from core.ml import downloads, hubs, layouts, records, staging
from core.ml.convert import convert, examine
from core.ml.hubs import Hub
from core.ml.progress import Report, Tally
from core.ml.records import Imported
from core.ml.sources import Source

Phase = Literal["downloading", "importing"]
DOWNLOADS: Final = ".downloads"
"""Beside the target, by base and content; who registers the base removes it."""
CONTENT_DIGITS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to import, and where to; `registered` and `copies` are those of `convert`."""

    source: str
    target: Path
    name: str
    hub: Hub
    revision: str | None
    registered: Path | None
    copies: int


def run(order: Order, *, report: Callable[[Phase, int, int], None]) -> Imported:
    """Import a folder, or download a repository and import that; an interrupted download goes on.

    Raises:
        CheckpointNotFound: Neither a folder nor a repository.
        HubUnavailable: The hub does not answer, or this process is offline.
        Problem: Whatever `convert` refuses.
    """

    def importing(done: int, total: int) -> None:
        report("importing", done, total)

    def downloading(done: int, total: int) -> None:
        report("downloading", done, total)

    folder = Path(order.source)
    if folder.exists() or not hubs.is_id(order.source):
        return convert(
            folder,
            order.target,
            name=order.name,
            progress=importing,
            registered=order.registered,
            copies=order.copies,
        )
    layouts.refuse_long_context(names=(order.source, order.name), config={}, code="")
    with downloads.client() as http:
        repository = hubs.listing(http, hub=order.hub, repository=order.source, revision=order.revision)
        if order.registered is not None and (
            known := records.registered(order.registered, name=order.name, origin=repository.origin)
        ):
            return known
        folder = _download(order, repository, http=http, report=downloading)
    return convert(
        folder,
        order.target,
        name=order.name,
        progress=importing,
        origin=repository.origin,
        registered=order.registered,
        copies=order.copies,
    )


def _download(order: Order, repository: hubs.Repository, *, http: httpx.Client, report: Report) -> Path:
    """Bring the small files, look at them, and only then bring the weights."""
    folder = downloads.clear(
        order.target.parent / DOWNLOADS / order.name, keep=repository.origin.content[:CONTENT_DIGITS]
    )
    missing = downloads.missing_bytes(repository.files, folder)
    staging.check_room(order.target, missing + order.copies * repository.weight_bytes, free=staging.free_bytes)
    tally = Tally(sum(file.bytes for file in repository.files), report)
    for file in repository.files:
        if hubs.WEIGHTS.fullmatch(file.name):
            examine(Source(folder), names=(order.source, order.name))
        downloads.fetch(file, folder, http=http, read=tally.add)
    tally.finish()
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Run one import as a child process; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m core.ml.importing", description=__doc__)
    parser.add_argument("source", help="a folder, or a hub id such as vivo-ai/BlueLM-7B-Chat")
    parser.add_argument("target", type=Path, help="the base's folder")
    parser.add_argument("--name", required=True, help="the base's name")
    parser.add_argument("--hub", choices=("hf", "modelscope"), default="hf", help="where a hub id is looked up")
    parser.add_argument("--revision", default=None, help="a branch, tag or commit of the hub's repository")
    parser.add_argument("--registered", type=Path, default=None, help="a folder with the registered import.json")
    parser.add_argument("--copies", type=int, default=1, help="how often the base will lie on this disk")
    given = Order(**vars(parser.parse_args(arguments)))

    def say(line: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def report(phase: Phase, done: int, total: int) -> None:
        say({"progress": {"phase": phase, "done_bytes": done, "total_bytes": total}})

    try:
        say(run(given, report=report).members())
    except Problem as problem:
        say({"error": {"code": problem.code, "message": problem.detail}})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
