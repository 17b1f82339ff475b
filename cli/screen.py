"""What commands print: tables and bars for people, or with `--json` one JSON document for programs.

People's output goes through one rich console; with `--json` that console writes to stderr, so that stdout holds
JSON alone.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.table import Table

FAILED: Final = 1
USAGE: Final = 2
REFUSED: Final = 3
UNREACHABLE: Final = 4
WIDTH_OF_PIPES: Final = 240


class Refused(Exception):
    """The service, or a check of ours, said no. Exit code 3.

    Args:
        message: What was wrong and what would be right.
        problem: The service's problem document, if it was the service.
    """

    exit_code = REFUSED

    def __init__(self, message: str, *, problem: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.problem = dict(problem or {})


class Unreachable(Refused):
    """No service answers at the address. Exit code 4."""

    exit_code = UNREACHABLE


class JobFailed(Refused):
    """A watched job ended as failed or cancelled. Exit code 1."""

    exit_code = FAILED


class Screen:
    """Where a command's output goes."""

    def __init__(self) -> None:
        self.json = False
        # A pipe has no width: lines stay whole there, so that ids can be cut out of tables.
        self.console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH_OF_PIPES)

    def use_json(self) -> None:
        """Print JSON on stdout and everything else on stderr from now on."""
        self.json = True
        self.console = Console(stderr=True, highlight=False)

    def document(self, content: Any) -> None:  # noqa: ANN401  (whatever the service answered)
        """Print one JSON document on a line of its own."""
        sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def rows(self, items: Sequence[Mapping[str, Any]], columns: Sequence[str], *, answer: Any = None) -> None:  # noqa: ANN401
        """Show a list as a table of the named columns; as JSON, the whole answer."""
        if self.json:
            self.document(items if answer is None else answer)
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in columns:
            table.add_column(name, no_wrap=name == "id", overflow="fold")
        for item in items:
            table.add_row(*(_cell(name, _dig(item, name)) for name in columns))
        self.console.print(table)

    def thing(self, item: Mapping[str, Any]) -> None:
        """Show one resource, field by field; as JSON, whole."""
        if self.json:
            self.document(item)
            return
        table = Table.grid(padding=(0, 2))
        for name, value in item.items():
            if value not in (None, {}, []):
                table.add_row(f"[bold]{name}[/bold]", _cell(name, value))
        self.console.print(table)

    def say(self, text: str) -> None:
        """Print a line for people."""
        self.console.print(text, soft_wrap=True)

    def refuse(self, error: Refused) -> None:
        """Print why a command stops; the problem document too, with `--json`."""
        if self.json:
            self.document(error.problem or {"code": type(error).__name__.lower(), "detail": str(error)})
        stderr = Console(stderr=True, highlight=False)
        stderr.print(f"[red]{str(error).replace('[', chr(92) + '[')}[/red]", soft_wrap=True)
        for finding in error.problem.get("errors") or []:
            where = ", ".join(f"{key} {finding[key]}" for key in ("line", "field") if finding.get(key) is not None)
            hint = f" {finding['hint']}" if finding.get("hint") else ""
            stderr.print(f"  {where}: {finding['message']}{hint}", soft_wrap=True, markup=False)


screen: Final = Screen()
"""The screen of this process."""


def _dig(item: Mapping[str, Any], path: str) -> Any:  # noqa: ANN401
    value: Any = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _cell(name: str, value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "-"
    if name.endswith("_at") and isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if name.endswith("bytes") and isinstance(value, int):
        return size(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace("[", "\\[")


def size(count: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError(unit)
