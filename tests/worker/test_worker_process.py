"""Workers as they are run: Celery on Valkey, SQLite, the real trainer on a tiny base."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from core import wake
from core.domain.jobs import Job, Status
from tests.support import tiny_base, valkey, workshops
from tests.support.training import rows
from tests.support.valkey import Valkey
from tests.support.worker_processes import HEARTBEAT_S, gone, wait_until, working
from tests.support.workshops import Workshop
from worker.app import REFUSED
from worker.child import ROOT


@pytest.fixture(scope="module")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base.make(tmp_path_factory.mktemp("base"))


@pytest.fixture
def shop(tmp_path: Path, sqlite_url: str, base_dir: Path) -> Iterator[Workshop]:
    made = workshops.make(tmp_path / "data", sqlite_url, base_dir=base_dir, rows=rows(12))
    yield made
    made.database.close()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Valkey]:
    with valkey.serving(tmp_path) as server:
        yield server


SHORT = {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-3}
LONG = SHORT | {"max_steps": 150, "save_steps": 10}
TRAIN = [["until_stopped", 0.02, 5]]
FINISH = [["progress", 1], ["finish"]]


def ended_well(shop: Workshop, job: Job) -> bool:
    found = shop.job(job.id)
    assert found.status is not Status.FAILED, found.failure
    return found.status is Status.SUCCEEDED


def checkpoints(shop: Workshop, job: Job) -> int:
    return sum(event.type == "checkpoint" for event in shop.events(job.id))


def test_a_job_is_cancelled_and_the_next_one_succeeds_in_the_same_trainer(shop: Workshop, broker: Valkey) -> None:
    with working(shop, broker.url) as worker:
        first = shop.submit(**(LONG | {"max_steps": 100_000}))
        wait_until(lambda: shop.job(first.id).progress.step > 3, 120)
        trainers = worker.trainers()
        shop.cancel(first.id)
        assert wait_until(lambda: shop.job(first.id).status is Status.CANCELLED) < 2 * HEARTBEAT_S + 0.5
        second = shop.submit(**SHORT)
        wait_until(lambda: ended_well(shop, second))
        assert worker.trainers() == trainers
        assert worker.end() == 0
    assert shop.adapters() == 1


def test_a_killed_worker_takes_its_trainer_along_and_another_ends_the_job_with_one_adapter(
    shop: Workshop, broker: Valkey
) -> None:
    job = shop.submit(**LONG)
    with working(shop, broker.url) as worker:
        wait_until(lambda: checkpoints(shop, job) > 0 and shop.job(job.id).progress.step % 10 > 2, 120)
        (trainer,) = worker.trainers()
        worker.kill()
        assert wait_until(lambda: gone(trainer)) < 1.0
    assert shop.job(job.id).status is Status.RUNNING
    with working(shop, broker.url) as worker:
        wait_until(lambda: ended_well(shop, job), 120)
        assert worker.end() == 0
    assert shop.adapters() == 1
    ended = shop.job(job.id)
    assert ended.attempt == 2
    assert ended.progress.step == LONG["max_steps"]
    steps = [event.data["step"] for event in shop.events(job.id) if event.type == "metrics"]
    assert set(steps) == set(range(1, 151))
    # What was trained after the checkpoint is trained again, nothing before it.
    assert len(steps) - 150 <= 10 + LONG["save_steps"]
    seqs = [event.seq for event in shop.events(job.id)]
    assert seqs == list(range(1, len(seqs) + 1))


def test_an_idle_worker_is_woken_by_a_hint(shop: Workshop, broker: Valkey) -> None:
    with working(shop, broker.url, FINISH, BLUELORA_SWEEP_S="30") as worker:
        wait_until(worker.ready)
        job = shop.submit()
        wait_until(lambda: shop.job(job.id).status is Status.SUCCEEDED, 20)
        assert worker.end() == 0


def test_a_burst_of_every_stop_signal_hands_the_job_back_uncharged(shop: Workshop, broker: Valkey) -> None:
    job = shop.submit()
    with working(shop, broker.url, TRAIN) as worker:
        wait_until(lambda: shop.job(job.id).progress.step > 3)
        assert worker.end(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP) == 0
        assert not worker.registered()
    waiting = shop.job(job.id)
    assert waiting.status is Status.QUEUED
    assert waiting.charged == 0
    assert any(event.type == "checkpoint" for event in shop.events(job.id))


def test_an_idle_worker_ends_in_order_on_a_burst_of_signals(shop: Workshop, broker: Valkey) -> None:
    with working(shop, broker.url, FINISH) as worker:
        wait_until(worker.ready)
        assert worker.end(signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP) == 0
        assert worker.lines()[-1]["message"] == "the worker has ended in order"


def test_a_job_runs_though_the_broker_never_answers(shop: Workshop, tmp_path: Path) -> None:
    first = shop.submit()
    with working(shop, f"redis+socket://{tmp_path}/nobody.sock", FINISH) as worker:
        wait_until(lambda: ended_well(shop, first))
        wait_until(lambda: "Cannot connect" in worker.log.read_text())
        second = shop.submit()
        wait_until(lambda: ended_well(shop, second))
        assert any("starting anew" in line["message"] for line in worker.lines())
        assert worker.process.poll() is None
        wait_until(lambda: "Cannot connect" in worker.lines()[-1]["message"])
        assert worker.end() == 0


def test_a_hundred_hints_make_one_run(shop: Workshop, broker: Valkey) -> None:
    with working(shop, broker.url, [["progress", 1], ["hang", 1.0], ["finish"]]) as worker:
        wait_until(worker.ready)
        job = shop.submit()
        app = wake.make_app(broker.url)
        for _ in range(100):
            app.send_task(wake.TASK, args=[job.id])
        app.close()
        wait_until(lambda: ended_well(shop, job))
        with broker.client() as client:
            wait_until(lambda: client.llen("bl:celery") == 0)
        assert worker.end() == 0
    assert shop.job(job.id).attempt == 1
    assert shop.adapters() == 1


def test_a_broker_that_comes_back_empty_costs_no_job(shop: Workshop, broker: Valkey) -> None:
    with working(shop, broker.url, [["progress", 1], ["hang", 1.5], ["finish"]]) as worker:
        wait_until(worker.ready)
        first = shop.submit()
        wait_until(lambda: shop.job(first.id).status is Status.RUNNING)
        broker.kill()
        second = shop.submit()
        wait_until(lambda: ended_well(shop, first))
        broker.start()
        wait_until(lambda: ended_well(shop, second), 30)
        assert worker.end() == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"REMAP_SIGTERM": "SIGQUIT"}, "REMAP_SIGTERM"),
        ({"BLUELORA_BROKER_URL": ""}, "BLUELORA_BROKER_URL"),
        ({"BLUELORA_BROKER_URL": "amqp://here"}, "redis://"),
        ({"BLUELORA_DATABASE_URL": "sqlite:////dev/shm/absent/none.db"}, "database"),
        ({"BLUELORA_LEASE_S": "1"}, "heartbeat"),
    ],
)
def test_a_worker_that_is_set_up_wrongly_says_so_and_ends(
    shop: Workshop, tmp_path: Path, more: dict[str, str], said: str
) -> None:
    with working(shop, f"redis+socket://{tmp_path}/nobody.sock", FINISH, **more) as worker:
        assert worker.process.wait(30) == REFUSED
        assert said in worker.lines()[-1]["message"]
        assert "Traceback" not in worker.log.read_text()


def test_an_empty_database_is_refused_with_the_command_that_mends_it(shop: Workshop, tmp_path: Path) -> None:
    with working(
        shop, f"redis+socket://{tmp_path}/nobody.sock", FINISH, BLUELORA_DATABASE_URL=f"sqlite:///{tmp_path}/empty.db"
    ) as worker:
        assert worker.process.wait(30) == REFUSED
        assert "python -m migrations upgrade" in worker.lines()[-1]["message"]


def test_a_worker_that_hits_an_error_of_ours_at_its_start_ends_and_takes_no_hints(
    shop: Workshop, broker: Valkey, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "scratch").write_text("no folder")
    (elsewhere / "logs").write_text("no folder")
    with working(shop, broker.url, FINISH, BLUELORA_DATA_DIR=str(elsewhere)) as worker:
        assert worker.process.wait(30) == 1
        assert "can't start" in worker.lines()[-1]["message"]


def test_tasks_are_imported_without_torch_database_or_settings(tmp_path: Path) -> None:
    code = "import sys, worker.tasks; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    environment = {"PATH": os.environ["PATH"], "BLUELORA_DATABASE_URL": "nonsense", "BLUELORA_DATA_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment, cwd=ROOT)
    assert list(tmp_path.iterdir()) == []
