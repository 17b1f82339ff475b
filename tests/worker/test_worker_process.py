"""Workers as they are run: Celery on Valkey, SQLite, the real trainer on a tiny base."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.domain.jobs import Status
from tests.support import tiny_base, valkey, workshops
from tests.support.training import rows
from tests.support.valkey import Valkey
from tests.support.worker_processes import wait_until, working
from tests.support.workshops import Workshop


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


def test_a_job_runs_to_success_and_the_worker_ends_in_order(shop: Workshop, broker: Valkey) -> None:
    job = shop.submit(**SHORT)
    with working(shop, broker.url) as worker:
        wait_until(lambda: shop.job(job.id).status in {Status.SUCCEEDED, Status.FAILED})
        assert shop.job(job.id).status is Status.SUCCEEDED, shop.job(job.id).failure
        assert worker.end() == 0
    assert shop.adapters() == 1


TRAIN = [["until_stopped", 0.02, 5]]
FINISH = [["progress", 1], ["finish"]]


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
        wait_until(lambda: shop.job(first.id).status is Status.SUCCEEDED)
        second = shop.submit()
        wait_until(lambda: shop.job(second.id).status is Status.SUCCEEDED)
        assert any("starting anew" in line["message"] for line in worker.lines())
        assert worker.process.poll() is None
        assert worker.end() == 0
