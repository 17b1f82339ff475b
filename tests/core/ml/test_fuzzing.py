"""Spoilt model folders by the hundred: each is refused, or imported as its source says; nothing else ever happens."""

import json
import os
import subprocess
import sys

import pytest

SEED = int(os.environ.get("FUZZ_SEED", "1"))


def fuzzed(*, seed: int, cases: int) -> None:
    command = [sys.executable, "-m", "tests.support.fuzzing", "--seed", str(seed), "--cases", str(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"seed {seed}: {done.stderr[-3000:]}"
    found = json.loads(done.stdout)
    print(found)
    assert found["failures"] == []
    assert sum(found["verdicts"].values()) == cases
    # Mutations that all refuse, or all pass, would prove little.
    assert {"damaged_checkpoint", "unsafe_checkpoint", "unsupported_checkpoint"} <= found["verdicts"].keys()
    assert {"imported, equal to the clean import", "imported, as its source says"} <= found["verdicts"].keys()


def test_a_hundred_spoilt_folders() -> None:
    fuzzed(seed=0, cases=100)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_spoilt_folders() -> None:
    fuzzed(seed=SEED, cases=2000)
