"""A data set's summary for people: numbers, bars of lengths, and warnings with their lines."""

from collections.abc import Mapping
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

BAR: Final = 30
Shown = Mapping[str, Any]


def show(dataset: Shown, console: Console) -> None:
    """Print what was found in a data set."""
    console.print(f"[bold]{dataset['reference']}[/bold]  {dataset['id']}  {dataset['status']}", soft_wrap=True)
    summary = dataset.get("summary")
    if summary:
        console.print(_numbers(dataset, summary))
        lengths = (dataset.get("tokens") or {}).get("lengths") or summary.get("lengths")
        if lengths and any(lengths["rows"]):
            console.print(_bars(lengths))
    for finding in dataset.get("findings") or []:
        console.print(_finding(finding), soft_wrap=True)


def _numbers(dataset: Shown, summary: Shown) -> Table:
    table = Table.grid(padding=(0, 2))
    kinds = ", ".join(f"{name} {rows:,}" for name, rows in summary["formats"].items()) or summary["format"]
    characters = summary["prompt_characters"] + summary["answer_characters"]
    told = {
        "format": f"{kinds} ({summary['container']})",
        "columns": ", ".join(summary["columns"]),
        "rows": f"{summary['rows']:,}, {summary['duplicates']:,} of them duplicates",
        "turns": f"{summary['turns']:,}",
        "characters": f"{characters:,}, {summary['answer_characters']:,} of them in answers",
        "tokens": _tokens(dataset),
        "scripts": ", ".join(f"{name} {share:.1%}" for name, share in summary["scripts"].items()),
        "sha256": dataset["sha256"],
    }
    for name, value in told.items():
        table.add_row(f"[bold]{name}[/bold]", escape(value))
    return table


def _tokens(dataset: Shown) -> str:
    tokens = dataset.get("tokens")
    if tokens is None:
        return "not counted: the default base can't" if dataset.get("tokens_status") == "failed" else "not counted yet"
    over = f", {tokens['over_context']:,} rows over {tokens['context_length']:,}" if tokens["over_context"] else ""
    return f"{tokens['total']:,} for {tokens['base']}, {tokens['trained']:,} trained on{over}"


def _bars(lengths: Shown) -> Table:
    rows, bounds = lengths["rows"], lengths["up_to"]
    names = [f"to {bound:,}" for bound in bounds] + [f"over {bounds[-1]:,}"]
    used = [place for place, count in enumerate(rows) if count]
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(lengths["unit"], justify="right")
    table.add_column("rows", justify="right")
    table.add_column("")
    for place in range(used[0], used[-1] + 1):
        bar = "█" * max(round(BAR * rows[place] / max(rows)), 1 if rows[place] else 0)
        table.add_row(names[place], f"{rows[place]:,}", f"[cyan]{bar}[/cyan]")
    return table


def _finding(finding: Shown) -> str:
    lines = finding.get("lines") or []
    more = ", …" if finding.get("count", 1) > len(lines) else ""
    where = f" line {', '.join(map(str, lines))}{more}:" if lines else ""
    colour = "red" if finding["severity"] == "error" else "yellow"
    hint = f" {finding['hint']}" if finding.get("hint") else ""
    text = escape(f"{finding['code']}{where} {finding['message']}{hint}")
    return f"[{colour}]{finding['severity']}[/{colour}] {text}"
