"""The trainer as its worker meets it: a real process, spoken to over its pipe."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.domain.jobs import Phase
from core.domain.training import Progress
from tests.support import training as t
from worker import messages
from worker.child import Child, ChildGone, Program

PATIENCE_S = 90.0


def _hear(child: Child) -> messages.Reply:
    reply = child.receive(PATIENCE_S)
    assert reply is not None
    return reply


def _until_the_end(child: Child) -> list[messages.Reply]:
    heard = [_hear(child)]
    while not isinstance(heard[-1], messages.Finished | messages.Stopped | messages.Failed):
        heard.append(_hear(child))
    return heard


@pytest.fixture(scope="module")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("process") / "trainer.log"


@pytest.fixture(scope="module")
def child(log_path: Path) -> Iterator[Child]:
    process = Child.spawn(Program(log_path=log_path, threads=1))
    try:
        ready = process.wait_ready()
        assert ready.device == "cpu"
        assert ready.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        yield process
    finally:
        process.close()


def test_one_child_runs_attempt_after_attempt_whatever_their_ends(
    child: Child, base: Path, tmp_path: Path, log_path: Path
) -> None:
    path = t.write(tmp_path, t.rows(8))

    child.send(t.run(base, path, tmp_path / "fails", t.spec(), dataset_sha256="0" * 64))
    failed = _until_the_end(child)[-1]
    assert isinstance(failed, messages.Failed)
    assert failed.failure.code == "dataset_changed"
    assert "Traceback" in log_path.read_text()

    child.send(t.run(base, path, tmp_path / "succeeds", t.spec(max_steps=3)))
    heard = _until_the_end(child)
    assert isinstance(heard[-1], messages.Finished)
    assert (Path(heard[-1].bundle_dir) / "manifest.json").exists()
    phases = [reply.phase for reply in heard if isinstance(reply, messages.Entered)]
    assert phases == [Phase.LOADING, Phase.TOKENIZING, Phase.TRAINING, Phase.PUBLISHING]
    events = [reply.event for reply in heard if isinstance(reply, messages.Told)]
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3]

    child.send(t.run(base, path, tmp_path / "stops", t.spec(max_steps=10_000)))
    while not isinstance(_hear(child), messages.Told):
        pass
    child.send(messages.Stop(wish="cancel"))
    stopped = _until_the_end(child)[-1]
    assert isinstance(stopped, messages.Stopped)
    assert stopped.wish == "cancel"
    assert 0 < stopped.step < 10_000
    assert not (tmp_path / "stops" / "scratch").exists()

    child.send(t.run(base, path, tmp_path / "early", t.spec(max_steps=10_000)))
    child.send(messages.Stop(wish="pause"))
    assert isinstance(_until_the_end(child)[-1], messages.Stopped)


def test_closing_the_requests_ends_the_child_also_amid_a_run(child: Child, base: Path, tmp_path: Path) -> None:
    path = t.write(tmp_path, t.rows(8))
    child.send(t.run(base, path, tmp_path / "out", t.spec(max_steps=10_000)))
    while not isinstance(_hear(child), messages.Told):
        pass
    child.stop(grace_s=20.0)
    assert not child.alive()


def test_a_line_that_is_no_request_ends_the_child_and_an_abort_leaves_its_stack(tmp_path: Path) -> None:
    speechless, hung = (
        Child.spawn(Program(log_path=tmp_path / f"{name}.log", threads=1)) for name in ("speechless", "hung")
    )
    try:
        speechless.wait_ready()
        speechless.send(messages.Stopped(wish="cancel", step=0, trained_tokens=0))
        with pytest.raises(ChildGone) as caught:
            _hear(speechless)
        assert caught.value.returncode == 65
        hung.wait_ready()
        hung.signal(signal.SIGABRT)
        with pytest.raises(ChildGone):
            _hear(hung)
        assert "Current thread" in (tmp_path / "hung.log").read_text()
    finally:
        speechless.close()
        hung.close()
