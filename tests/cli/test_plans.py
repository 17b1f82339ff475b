"""How plans and rows are printed: what is learnt can be told apart without colours, and texts stay texts."""

import io
from typing import Any

import pytest
from rich.console import Console

from cli import plans

PLAN: dict[str, Any] = {
    "estimated": False,
    "rows": {
        "train": {"rows": 30, "longest": 99, "dropped": 2, "truncated": 0},
        "validation": {"rows": 3, "longest": 40, "dropped": 0, "truncated": 1},
        "packed": 7,
    },
    "steps": {"total": 12, "per_epoch": 4, "rows": 2, "warmup": 1, "evaluations": 3},
    "tokens": {
        "per_epoch": {"total": 1000, "trained": 300},
        "all_steps": {"total": 3000, "trained": 900},
        "low": 2500,
        "high": 3600,
        "validation": None,
        "padding_avoided": 400,
    },
    "memory": {
        "precision": "bf16",
        "weights_bytes": 2**30,
        "adapter_bytes": 2**20,
        "gradients_bytes": 2**20,
        "optimizer_bytes": 2**21,
        "activations_bytes": 2**29,
        "reserve_bytes": 2**20,
        "context_bytes": 2**20,
        "total_bytes": 2**31,
    },
    "workers": {"alive": 2, "fitting": 1},
    "time": {"low_seconds": 40.0, "high_seconds": 7200.0, "measured_attempts": 5, "reason": None},
    "warnings": [{"code": "few_steps", "message": "Too few [bold]steps[/bold].", "field": None, "hint": "More."}],
    "previews": [
        {
            "line": 4,
            "why": "first",
            "tokens": {"total": 5, "trained": 3},
            "omitted": 6,
            "pieces": [
                {"id": 1, "text": "<s>", "bytes": None, "trained": False, "control": True},
                {"id": 9, "text": "[red]问\x1b[31m", "bytes": None, "trained": False, "control": False},
                {"id": 7, "text": None, "bytes": "e5a5", "trained": True, "control": False},
                {"id": 8, "text": None, "bytes": "bd", "trained": True, "control": False},
                {"id": 2, "text": "</s>", "bytes": None, "trained": True, "control": True},
            ],
        }
    ],
}
MEMORY = (
    "weights 1.0 GiB, adapter 1.0 MiB, gradients 1.0 MiB, optimizer 2.0 MiB, activations 512.0 MiB, reserve 1.0 MiB, "
    "context 1.0 MiB"
)


def _shown(plan: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=400, highlight=False)
    plans.show(plan, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_plan_is_told_in_lines() -> None:
    assert _shown(PLAN).splitlines() == [
        "rows       30, the longest of 99 tokens, 2 dropped, packed into 7",
        "validation 3, the longest of 40 tokens, 1 truncated",
        "steps      12 of 2 rows (4 an epoch, 1 of warm-up, 3 evaluations)",
        "tokens     3,000 over all steps, 900 of them learnt",
        "           1,000 an epoch; 400 of padding avoided",
        f"memory     2.0 GiB on a GPU ({MEMORY}); fits 1 of 2 workers",
        "time       40 s to 2.0 h, by 5 attempts on this base here",
        "! Too few [bold]steps[/bold]. More.",
        "",
        "line 4 (first): 5 tokens, 3 of them learnt",
        r"  reads     <s>[red]问\x1b[31m",
        "  learns    好</s>",
        "  … and 6 more tokens",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"estimated": True}, "about 3,000 over all steps, 900 of them learnt, 2,500 to 3,600"),
        ({"time": {"low_seconds": None, "high_seconds": None, "reason": "No job yet."}}, "unknown: No job yet."),
        ({"workers": {"alive": 0, "fitting": 0}}, "context 1.0 MiB)\n"),
    ],
)
def test_what_is_not_known_is_said(change: dict[str, Any], words: str) -> None:
    assert words in _shown(PLAN | change)
