"""What `datasets upload` and `datasets show` print, of a real service."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from cli import summaries
from tests.support.databases import SqliteDatabases
from tests.support.live import ADMIN, serving

ROOT = Path(__file__).parents[2]
ROWS = [("你是谁？", "我是小石。"), ("你是谁？", "我是石头。"), ("你是谁？", "我是小石。"), ("[bold]b", "c</s>")]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    rows = (json.dumps({"instruction": ask, "input": "", "output": tell}, ensure_ascii=False) for ask, tell in ROWS)
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


@pytest.fixture
def folder(sqlite_databases: SqliteDatabases, tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    sqlite_databases.copy(made)
    return made


def bluelora(*words: str, url: str) -> subprocess.CompletedProcess[str]:
    told = os.environ | {"BLUELORA_URL": url, "BLUELORA_API_KEY": ADMIN}
    return subprocess.run(
        [sys.executable, "-m", "cli", *words], check=False, env=told, capture_output=True, text=True, cwd=ROOT
    )


@pytest.mark.parametrize("patience_s", [30, 1e-6])
def test_an_upload_shows_what_was_found_by_line_even_if_it_has_to_wait(
    file: Path, patience_s: float, folder: Path
) -> None:
    with serving(folder, validation_wait_s=patience_s) as live:
        uploaded = json.loads(bluelora("datasets", "upload", str(file), "--json", url=live.url).stdout)
        later = bluelora("datasets", "upload", str(file), "--name", "later", "--no-wait", "--json", url=live.url)
        shown = bluelora("datasets", "show", "rows", url=live.url).stdout
        with live.client() as client:
            assert uploaded == client.get("/datasets/rows").json()

    assert (uploaded["status"], uploaded["summary"]["rows"], uploaded["tokens_status"]) == ("ready", 4, "pending")
    assert json.loads(later.stdout)["status"] == ("ready" if patience_s > 1 else "processing")
    for part in (
        "rows@1",
        "alpaca 4 (jsonl)",
        "4, 1 of them duplicates",
        "not counted yet",
        "Han 75.0%",
        "warning duplicate_rows line 3: 1 row of 4 the same",
        "warning several_answers line 1, 2, …: 3 rows with a prompt",
        "warning control_token_in_text line 4: 1 row with",
        "██",
    ):
        assert part in shown, shown


def test_an_invalid_late_file_exits_as_refused(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"instruction": "a"}\n')
    with serving(folder, validation_wait_s=1e-6) as live:
        said = bluelora("datasets", "upload", str(bad), url=live.url)

    assert said.returncode == 3
    assert "missing_field line 1: The row has no output." in said.stdout
    assert "can't be trained on" in said.stderr


def test_token_counts_take_the_place_of_characters() -> None:
    lengths = {"unit": "tokens", "up_to": [8, 16], "rows": [1, 2, 1]}
    tokens = {"base": "b", "total": 1234, "trained": 56, "over_context": 1, "context_length": 16, "lengths": lengths}
    summary = {
        "format": "alpaca", "formats": {}, "container": "csv", "columns": ["a[b]"], "rows": 4, "duplicates": 0,
        "turns": 8, "prompt_characters": 1, "answer_characters": 2, "scripts": {}, "lengths": lengths | {"unit": "x"},
    }  # fmt: skip
    dataset = {"reference": "d@1", "id": "ds_1", "status": "ready", "sha256": "0" * 64}

    shown = printed(dataset | {"summary": summary, "tokens": tokens, "tokens_status": "counted"})

    assert "1,234 for b, 56 trained on, 1 rows over 16" in shown
    assert "tokens  rows" in shown
    assert "over 16     1" in shown
    assert "a[b]" in shown


def printed(dataset: dict[str, object]) -> str:
    console = Console(file=io.StringIO(), width=200)
    summaries.show(dataset, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()
