"""What no import graph sees: whose our packages are, what processes load, what the wheel ships."""

import importlib
import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("api", "worker", "core", "cli", "migrations")
GPU_ONLY = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy")


@pytest.mark.parametrize("name", PACKAGES)
def test_our_packages_are_ours(name: str) -> None:
    found = importlib.import_module(name).__file__
    assert found is not None
    assert Path(found).is_relative_to(ROOT)
    others = set(importlib.metadata.packages_distributions().get(name, ())) - {"bluelora"}
    assert not others, f"{others} ship a package {name!r} too"


@pytest.mark.parametrize("module", ["api.main", "cli.main", "worker.tasks", "worker.app", "core.runtime"])
def test_processes_without_a_gpu_load_nothing_of_the_gpu_extra(module: str) -> None:
    script = f"import sys, {module}; print([name for name in {GPU_ONLY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_folder_of_code_is_a_package() -> None:
    for top in (*PACKAGES, "tests", "bench", "tools"):
        folders = {path.parent for path in (ROOT / top).rglob("*.py")}
        missing = [folder for folder in folders if not (folder / "__init__.py").exists()]
        assert missing in ([], [ROOT / "migrations" / "versions"])


def test_the_wheel_ships_code_migrations_and_assets(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for shipped in (
        "api/main.py",
        "migrations/versions/0001_the_first_schema.py",
        "assets/sample.jsonl",
        "assets/bluelm-nano/config.json",
    ):
        assert shipped in names
    kept_out = ("tests/", "bench/", "docs/", "tools/")
    assert not [name for name in names if name.startswith(kept_out)]


def test_the_lock_pins_every_dependency_exactly() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    lines = (ROOT / "requirements.lock").read_text().split()
    assert all("==" in line for line in lines)
    locked = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    names = {
        line.partition("[")[0].partition(">")[0].partition("=")[0].strip().lower().replace("_", "-") for line in wanted
    }
    assert names <= locked, names - locked


def test_decisions_are_numbered_and_have_their_parts() -> None:
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [record.name[:5] for record in records] == [f"{number:04}-" for number in range(1, len(records) + 1)]
    for record in records:
        text = record.read_text(encoding="utf-8")
        for part in ("Context", "Decision", "Consequences", "Alternatives", "Check"):
            assert part in text, f"{record.name} has no {part}"
