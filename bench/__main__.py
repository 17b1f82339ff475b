"""`python -m bench ROW`: run one row and its peers, print one line of JSON on stdout, and logs on stderr."""

import argparse
import contextlib
import json
import os
import sys
import tomllib
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from bench import harness
from bench.harness import Options, Result

ROWS: Final[Mapping[str, str]] = {
    "D1": "bench.rows.inspection:d1",
    "I7": "bench.rows.imports:i7",
    "M1": "bench.rows.memory:m1",
    "S1": "bench.rows.service:s1",
    "T1": "bench.rows.train:t1",
    "U1": "bench.rows.uploads:u1",
}
"""Where each row's function is; imported when it runs, so that rows without torch start without it."""
TARGETS: Final = Path(__file__).with_name("targets.toml")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a row; the exit status is 0, 1 for an error, or 2 for a missed target under `--gate`."""
    parser = argparse.ArgumentParser(prog="bench", description="Run one benchmark row and its peers.")
    parser.add_argument("row", choices=sorted(ROWS))
    parser.add_argument("--shape", choices=("7b", "nano", "tiny"), default="7b")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--steps", type=int, default=None, help="timed steps in each block (default: the shape's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gate", action="store_true", help="hold the result against bench/targets.toml")
    given = parser.parse_args(arguments)
    options = Options(row=given.row, shape=given.shape, device=given.device, steps=given.steps, seed=given.seed)
    # Read when torch is loaded, which rows do: threads that spin for each other lose tenfold on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        # Libraries print; stdout is for the one line.
        with contextlib.redirect_stdout(sys.stderr):
            result = _row(options.row)(options)
    except Exception as error:  # noqa: BLE001  (the outermost loop: an error is a line too)
        traceback.print_exc()
        print(json.dumps({"row": options.row, "error": f"{type(error).__name__}: {error}"}, ensure_ascii=False))
        return 1
    print(harness.line(result))
    missed = list(misses(result, device=options.device)) if given.gate else []
    for miss in missed:
        print(miss, file=sys.stderr)
    return 2 if missed else 0


def misses(result: Result, *, device: str) -> Sequence[str]:
    """Name every target that a result misses."""
    targets: dict[str, Any] = tomllib.loads(TARGETS.read_text()).get(result.row, {})
    wanted = targets.get(device, {}).get(result.shape, {})
    found = {"figure": result.figure, "ratio": result.ratio, "of_limit": result.of_limit, **result.more}
    bounds = [(name, bound, found) for name, bound in wanted.items()]
    if result.parity is not None:
        bounds += [(name, bound, dict(result.parity)) for name, bound in targets.get("parity", {}).items()]
    return [
        f"{result.row}: {name} is {bound}, found {values.get(name[4:])}"
        for name, bound, values in bounds
        if not _within(name, bound, values.get(name[4:]))
    ]


def _within(name: str, bound: float, value: float | str | None) -> bool:
    if not isinstance(value, int | float):
        return False
    return value >= bound if name.startswith("min_") else value <= bound


def _row(name: str) -> Callable[[Options], Result]:
    module, _, function = ROWS[name].partition(":")
    found: Callable[[Options], Result] = getattr(import_module(module), function)
    return found


if __name__ == "__main__":
    sys.exit(main())
