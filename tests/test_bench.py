"""Benchmark rows at their smallest: each ends in seconds with one line that says all it must."""

import json
import os
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench
from bench.harness import Block, Peer, Result, StepClock, spread

ROOT = Path(__file__).parents[1]


def _run(*arguments: str) -> tuple[int, dict[str, Any]]:
    ended = subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    lines = ended.stdout.splitlines()
    assert len(lines) == 1, ended.stderr
    return ended.returncode, json.loads(lines[0])


@pytest.mark.parametrize("row", sorted(bench.ROWS))
def test_every_row_runs_at_tiny_and_says_all_it_must(row: str) -> None:
    began = os.times()
    status, line = _run(row, "--shape", "tiny", "--device", "cpu", "--steps", "5")
    ended = os.times()
    assert status == 0
    # Of the processor, since a wall clock would measure the neighbours on a shared machine.
    assert ended.children_user + ended.children_system - began.children_user - began.children_system < 20
    assert line.keys() >= {field.name for field in fields(Result)}
    assert line["row"] == row
    assert line["figure"] > 0
    assert line["n"] >= 5
    assert line["ratio"] == pytest.approx(line["figure"] / line["peer"]["figure"])
    assert line["limit"] is None
    assert line["shape"] == "tiny"
    if line["parity"] is not None:
        assert line["parity"]["loss_rel"] <= 1e-3
        assert line["parity"]["gradient_cosine"] >= 0.999


def test_an_error_is_a_line_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ROWS", {"T1": "bench.rows.train:absent"})
    assert bench.main(["T1", "--shape", "tiny", "--device", "cpu"]) == 1
    line = json.loads(capsys.readouterr().out)
    assert line["row"] == "T1"
    assert "absent" in line["error"]


def _result(**changed: Any) -> Result:
    given: dict[str, Any] = {
        "row": "T1",
        "figure": 20.0,
        "unit": "samples/s",
        "peer": Peer(name="peer", figure=10.0),
        "ratio": 2.0,
        "limit": None,
        "of_limit": None,
        "tokens_per_step": 1.0,
        "warmup_s": 0.0,
        "n": 5,
        "spread": 0.0,
        "parity": {"loss_rel": 1e-6, "gradient_cosine": 1.0},
        "device": "cpu",
        "shape": "nano",
    }
    return Result(**(given | changed))


def test_the_gate_names_what_is_missed() -> None:
    assert not bench.misses(_result(), device="cpu")
    assert any("min_ratio" in miss for miss in bench.misses(_result(ratio=0.9), device="cpu"))
    wrong = _result(parity={"loss_rel": 0.1, "gradient_cosine": 0.9})
    assert len(bench.misses(wrong, device="cpu")) == 2
    assert not bench.misses(_result(ratio=0.9, shape="tiny"), device="cpu")


def test_a_clock_keeps_its_first_step_apart_as_warm_up() -> None:
    clock = StepClock()
    clock.start()
    for _ in range(4):
        time.sleep(0.001)
        clock.stop()
    assert isinstance(clock.block, Block)
    assert len(clock.block.seconds) == 3
    assert clock.block.warmup_s > 0


def test_spread_is_the_interquartile_range_by_the_median() -> None:
    assert spread([1.0]) == 0
    assert spread([2.0, 2.0, 2.0]) == 0
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(1.0)
