"""`bluelora demo`, as `make demo` runs it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.support.service import ROOT


def test_the_demo_trains_and_ends_with_one_json_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli", "demo", "--data-dir", str(tmp_path / "data")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result) == {
        "job", "adapter", "loss_first", "loss_last", "base_answers", "adapter_answers", "seconds",
    }  # fmt: skip
    assert result["loss_last"] < result["loss_first"] / 3
    assert len(result["base_answers"]) == len(result["adapter_answers"]) == 3
    assert result["base_answers"] != result["adapter_answers"]
    assert "learning_rate" in done.stdout
    assert (tmp_path / "data" / "bluelora.db").exists()
    assert not (tmp_path / "data" / "service.json").exists()
