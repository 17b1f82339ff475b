"""A trainer process seen from outside, with real processes that play a script."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.domain.jobs import Phase
from core.domain.training import TrainSpec
from worker import logfiles, messages
from worker.child import Child, ChildGarbled, ChildGone, Program, environment
from worker.resident import Resident


def scripted(tmp_path: Path, *runs: list[Any]) -> Program:
    argv = (sys.executable, "-m", "tests.support.scripted_trainer", json.dumps(list(runs)))
    return Program(log_path=tmp_path / "logs" / "trainer.log", argv=argv)


@contextmanager
def spawned(program: Program) -> Iterator[Child]:
    child = Child.spawn(program)
    try:
        child.wait_ready()
        yield child
    finally:
        child.close()


def a_run(tmp_path: Path, **more: Any) -> messages.Run:
    output = tmp_path / "output"
    output.mkdir(exist_ok=True)
    fields: dict[str, Any] = {
        "job_id": "job_1", "attempt": 1, "spec": TrainSpec(dataset="ds", name="a"), "base_dir": "/", "device": "cpu",
        "base_fingerprint": "f" * 64, "template_hash": "t", "dataset_path": "/", "dataset_sha256": "d",
        "output_dir": str(output),
    }  # fmt: skip
    return messages.Run(**(fields | more))


def receive(child: Child) -> messages.Reply:
    reply = child.receive(10.0)
    assert reply is not None
    return reply


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait_until(holds: Any, seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def test_a_child_takes_run_after_run_and_answers_in_order(tmp_path: Path) -> None:
    program = scripted(tmp_path, [["enter", "loading"], ["progress", 2]], [["enter", "training"]])
    with spawned(program) as child:
        child.send(a_run(tmp_path))
        first = receive(child)
        assert isinstance(first, messages.Entered)
        assert first.phase is Phase.LOADING
        steps = [reply.event.step for reply in (receive(child), receive(child)) if isinstance(reply, messages.Told)]
        assert steps == [1, 2]
        child.send(a_run(tmp_path))
        second = receive(child)
        assert isinstance(second, messages.Entered)
        assert second.phase is Phase.TRAINING


def test_a_quiet_child_gives_none_in_time(tmp_path: Path) -> None:
    with spawned(scripted(tmp_path, [])) as child:
        began = time.monotonic()
        assert child.receive(0.2) is None
        assert 0.15 < time.monotonic() - began < 2


def test_the_longest_system_prompt_fits_a_line_and_reaches_the_child(tmp_path: Path) -> None:
    prompt = "\x01" * 32_768
    metadata = {f"{n:064d}": "\x01" * 512 for n in range(16)}
    spec = TrainSpec(dataset="ds", name="a", system_prompt=prompt, metadata=metadata)
    with spawned(scripted(tmp_path, [["enter", "loading"]])) as child:
        child.send(a_run(tmp_path, spec=spec))
        assert isinstance(receive(child), messages.Entered)
    assert json.loads((tmp_path / "output.run.json").read_text())["spec"]["system_prompt"] == prompt


def test_the_child_gets_no_secret_of_ours_and_no_network_for_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BLUELORA_DATABASE_URL", "BLUELORA_BROKER_URL", "BLUELORA_STORAGE_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    chosen = environment(os.environ, threads=2)
    assert "secret" not in chosen.values()
    assert not [name for name in chosen if name.startswith("BLUELORA_")]
    assert chosen["HF_HUB_OFFLINE"] == "1"
    assert chosen["TOKENIZERS_PARALLELISM"] == "false"
    assert chosen["CUDA_VISIBLE_DEVICES"] == "3"
    assert chosen["OMP_NUM_THREADS"] == "2"


def test_the_process_itself_is_a_private_session_that_memory_pressure_picks_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLUELORA_DATABASE_URL", "secret")
    with spawned(scripted(tmp_path, [])) as child:
        process = Path(f"/proc/{child.pid}")
        assert os.getsid(child.pid) == child.pid
        assert (process / "oom_score_adj").read_text().strip() == "800"
        assert "Umask:\t0077" in (process / "status").read_text()
        assert b"secret" not in (process / "environ").read_bytes()


def test_output_goes_to_a_private_log_file(tmp_path: Path) -> None:
    with spawned(scripted(tmp_path, [["print", "你好"], ["enter", "loading"]])) as child:
        child.send(a_run(tmp_path))
        receive(child)
    path = tmp_path / "logs" / "trainer.log"
    assert "你好" in path.read_text()
    assert path.stat().st_mode & 0o077 == 0


def test_a_long_log_is_rotated_under_its_writer(tmp_path: Path) -> None:
    path = tmp_path / "trainer.log"
    with logfiles.appending(path) as descriptor:
        os.write(descriptor, b"x" * (logfiles.MAX_BYTES + 1))
        logfiles.rotate(path)
        os.write(descriptor, b"after")
    assert path.read_bytes() == b"after"
    assert path.with_name("trainer.log.1").stat().st_size == logfiles.MAX_BYTES + 1


def test_the_log_of_a_trainer_that_stays_is_rotated_between_attempts(tmp_path: Path) -> None:
    program = scripted(tmp_path)
    resident = Resident(program)
    try:
        first = resident.for_base("f" * 64)
        with program.log_path.open("ab") as log:
            log.write(b"x" * (logfiles.MAX_BYTES + 1))
        assert resident.for_base("f" * 64) is first
    finally:
        resident.discard()
    assert program.log_path.with_name("trainer.log.1").stat().st_size > logfiles.MAX_BYTES
    assert program.log_path.stat().st_size == 0


@pytest.mark.parametrize(("action", "code"), [(["exit", 64], 64), (["die", 9], -9), (["die", 6], -6)])
def test_a_child_that_ends_is_told_by_its_code(tmp_path: Path, action: list[Any], code: int) -> None:
    with spawned(scripted(tmp_path, [["progress", 1], action])) as child:
        child.send(a_run(tmp_path))
        assert isinstance(receive(child), messages.Told)
        with pytest.raises(ChildGone) as caught:
            child.receive(10.0)
        assert caught.value.returncode == code
        with pytest.raises(ChildGone):
            child.send(messages.Stop(wish="cancel"))


@pytest.mark.parametrize("action", [["garbage", "{}"], ["garbage", "Traceback"], ["endless_line"]])
def test_what_is_no_message_is_refused(tmp_path: Path, action: list[Any]) -> None:
    with spawned(scripted(tmp_path, [action])) as child:
        child.send(a_run(tmp_path))
        with pytest.raises(ChildGarbled):
            child.receive(10.0)


def test_a_message_of_another_version_is_refused(tmp_path: Path) -> None:
    line = messages.Stepped(step=1).model_dump_json().replace('"version":1', '"version":2')
    with spawned(scripted(tmp_path, [["garbage", line]])) as child:
        child.send(a_run(tmp_path))
        with pytest.raises(ChildGarbled):
            child.receive(10.0)


def test_stop_ends_an_idle_child_in_order_and_a_deaf_one_by_force(tmp_path: Path) -> None:
    with spawned(scripted(tmp_path, [])) as idle:
        idle.stop()
        assert not idle.alive()
    with spawned(scripted(tmp_path, [["ignore_term"], ["enter", "training"], ["hang"]])) as deaf:
        deaf.send(a_run(tmp_path))
        receive(deaf)
        deaf.stop(grace_s=0.2)
        assert gone(deaf.pid)


def test_kill_ends_what_the_child_started_too(tmp_path: Path) -> None:
    with spawned(scripted(tmp_path, [["start_sleeper"], ["hang"]])) as child:
        child.send(a_run(tmp_path))
        wait_until((tmp_path / "output.sleeper").exists)
        sleeper = int((tmp_path / "output.sleeper").read_text())
        assert not gone(sleeper)
        child.kill()
        wait_until(lambda: gone(sleeper))


def test_a_killed_parent_takes_its_child_along_at_once(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-m", "tests.support.lone_parent", str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.send_signal(signal.SIGKILL)
        killed_at = time.monotonic()
        wait_until(lambda: gone(pid), seconds=2.0)
        assert time.monotonic() - killed_at < 1.0
    parent.wait()


def test_the_trainer_is_kept_for_its_base_and_replaced_for_another(tmp_path: Path) -> None:
    resident = Resident(scripted(tmp_path, []))
    try:
        assert resident.warm_up().device == "cpu"
        first = resident.for_base("a")
        assert resident.for_base("a") is first
        other = resident.for_base("b")
        assert other is not first
        assert gone(first.pid)
        other.kill()
        assert resident.for_base("b") is not other
    finally:
        resident.stop()


def test_a_trainer_that_cannot_start_is_an_error_not_a_wait(tmp_path: Path) -> None:
    resident = Resident(Program(log_path=tmp_path / "log", argv=(sys.executable, "-c", "raise SystemExit(3)")))
    with pytest.raises(ChildGone) as caught:
        resident.warm_up()
    assert caught.value.returncode == 3


def test_no_descriptor_leaks_over_many_children(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with spawned(scripted(tmp_path, [])):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
