"""How a plan is printed: what it comes to, what is odd, and three rows as they are learnt from."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from cli.screen import size

LEARNT: Final = "bold green"
READ: Final = "default"
NAMES: Final = {True: ("learns", LEARNT), False: ("reads", READ)}


def show(plan: Mapping[str, Any], console: Console) -> None:
    """Print a plan for people."""
    for name, text in _summary(plan):
        console.print(Text.assemble((f"{name:<11}", "bold"), text), soft_wrap=True)
    for one in plan["warnings"]:
        console.print(Text.assemble(("! ", "yellow"), one["message"], " ", (one["hint"] or "", "dim")), soft_wrap=True)
    for preview in plan["previews"]:
        tokens = preview["tokens"]
        console.print()
        console.print(
            f"line {preview['line']} ({preview['why']}): {tokens['total']} tokens, {tokens['trained']} of them learnt"
        )
        pieces(preview["pieces"], console)
        if preview["omitted"]:
            console.print(f"  … and {preview['omitted']} more tokens")


def pieces(shown: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print token pieces, a line for each stretch that is read or learnt; colours are not needed to tell them apart."""
    for trained, run in groupby(shown, key=lambda piece: bool(piece["trained"])):
        name, style = NAMES[trained]
        _line(name, _joined(list(run)), style, console)


def turns(shown: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print a conversation, a line a turn, the turns that are learnt in the colour of learnt tokens."""
    for turn in shown:
        learnt = turn["role"] == "assistant" and turn["weight"] > 0
        _line(turn["role"], turn["content"], NAMES[learnt][1], console)


def _line(name: str, text: str, style: str, console: Console) -> None:
    # Control characters of a data set stay out of the terminal.
    printable = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    console.print(Text.assemble((f"  {name:<9} ", "dim"), (printable, style)), soft_wrap=True)


def _joined(run: Sequence[Mapping[str, Any]]) -> str:
    raw = b"".join(bytes.fromhex(one["bytes"]) if one["bytes"] is not None else one["text"].encode() for one in run)
    return raw.decode(errors="replace")


def _summary(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    about = "about " if plan["estimated"] else ""
    tokens, steps, rows = plan["tokens"], plan["steps"], plan["rows"]
    yield "rows", about + _side(rows["train"]) + (f", packed into {rows['packed']}" if rows["packed"] else "")
    if rows["validation"]:
        yield "validation", about + _side(rows["validation"])
    more = f"{steps['per_epoch']} an epoch, {steps['warmup']} of warm-up, {steps['evaluations']} evaluations"
    yield "steps", f"{steps['total']} of {steps['rows']} rows ({more})"
    every = tokens["all_steps"]
    bounds = f", {tokens['low']:,} to {tokens['high']:,}" if plan["estimated"] else ""
    yield "tokens", f"{about}{every['total']:,} over all steps, {every['trained']:,} of them learnt{bounds}"
    yield "", f"{tokens['per_epoch']['total']:,} an epoch; {tokens['padding_avoided']:,} of padding avoided"
    yield "memory", _memory(plan["memory"], plan["workers"])
    yield "time", _time(plan["time"])


def _side(side: Mapping[str, Any]) -> str:
    gone = [f"{side[name]} {name}" for name in ("dropped", "truncated") if side[name]]
    return ", ".join((str(side["rows"]), f"the longest of {side['longest']} tokens", *gone))


def _memory(memory: Mapping[str, Any], workers: Mapping[str, int]) -> str:
    parts = ("weights", "adapter", "gradients", "optimizer", "activations", "reserve", "context")
    spelt = ", ".join(f"{name} {size(memory[f'{name}_bytes'])}" for name in parts)
    where = "GPU" if memory["precision"] == "bf16" else "CPU"
    fits = f"; fits {workers['fitting']} of {workers['alive']} workers" if workers["alive"] else ""
    return f"{size(memory['total_bytes'])} on a {where} ({spelt}){fits}"


def _time(time: Mapping[str, Any]) -> str:
    if time["low_seconds"] is None:
        return f"unknown: {time['reason']}"
    low, high = (_clock(time[name]) for name in ("low_seconds", "high_seconds"))
    span = low if low == high else f"{low} to {high}"
    return f"{span}, by {time['measured_attempts']} attempts on this base here"


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
