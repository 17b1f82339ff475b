"""docs/datasets.md lists every code that a file's findings can have."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from core.domain import cautions

ROOT = Path(__file__).parents[2]
SOURCES = (
    *(ROOT / "core/domain/containers").glob("*.py"),
    *(ROOT / "core/domain/rows").glob("*.py"),
    *(ROOT / "core/domain" / name for name in ("cautions.py", "compression.py", "inspections.py", "strictjson.py")),
    *(ROOT / "core/services" / name for name in ("counts.py", "inspection.py", "inspectors.py", "validations.py")),
)
HELPERS = {"blank": 1, "_separator": 1, "_told": 0, "say": 0, "_warning": 0}
"""Functions that make findings, and where among their arguments the code is."""


def codes(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            said = [keyword.value for keyword in node.keywords if keyword.arg == "code"]
            said += node.args[HELPERS[name] : HELPERS[name] + 1] if name in HELPERS else []
            yield from (one.value for one in said if isinstance(one, ast.Constant) and isinstance(one.value, str))


def test_every_code_is_documented_and_no_other() -> None:
    table = (ROOT / "docs/datasets.md").read_text().partition("| code |")[2]
    listed = [code for row in table.splitlines()[2:] for code in re.findall(r"`([a-z0-9_]+)`", row.split("|")[1])]

    assert len(listed) == len(set(listed))
    assert set(listed) == set(cautions._ODD) | {code for source in SOURCES for code in codes(source)}
