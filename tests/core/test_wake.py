"""The relay against a real Valkey."""

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from core import wake
from core.db.transactions import Database, connect, transaction
from core.services import outbox
from core.wake import Relay, UnknownBroker
from tests.support import valkey
from tests.support.valkey import Valkey

JOB = "job_00000000000000000000000001"
OTHER = "job_00000000000000000000000002"


@pytest.fixture
def broker() -> Iterator[Valkey]:
    with tempfile.TemporaryDirectory(prefix="blvk-") as folder, valkey.serving(Path(folder)) as server:
        yield server


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    opened = connect(sqlite_url)
    yield opened
    opened.close()


@pytest.fixture
def relay(broker: Valkey, database: Database) -> Iterator[Relay]:
    made = Relay(broker.url, unsent=partial(outbox.unsent, database), mark=partial(outbox.mark, database=database))
    made.start()
    yield made
    made.stop()


def sent(broker: Valkey) -> list[str]:
    """The jobs that messages in the queue are about, oldest first."""
    with broker.client() as client:
        raw = client.lrange("bl:celery", 0, -1)
    found = [json.loads(message) for message in reversed(raw)]
    assert all(message["headers"]["task"] == wake.TASK for message in found)
    return [message["headers"]["argsrepr"].strip("('\",[])") for message in found]


def leave(database: Database, job_id: str) -> None:
    with transaction(database) as tx:
        tx.outbox.add("wake", job_id=job_id)


def eventually(condition: Callable[[], bool], *, within_s: float = 15.0) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_rows_that_anyone_left_are_sent_once(broker: Valkey, database: Database, relay: Relay) -> None:
    leave(database, JOB)
    eventually(lambda: sent(broker) == [JOB])
    eventually(lambda: not outbox.unsent(database))
    leave(database, OTHER)
    relay.hint(OTHER)
    eventually(lambda: sent(broker) == [JOB, OTHER])


def test_a_hint_needs_no_row(broker: Valkey, relay: Relay) -> None:
    relay.hint(JOB)
    eventually(lambda: sent(broker) == [JOB])


def test_what_a_dead_broker_missed_is_sent_when_it_is_back(broker: Valkey, database: Database, relay: Relay) -> None:
    broker.kill()
    started = time.monotonic()
    leave(database, JOB)
    relay.hint(JOB)
    assert time.monotonic() - started < 1
    time.sleep(1.5)
    assert [message.job_id for message in outbox.unsent(database)] == [JOB]
    broker.start()
    eventually(lambda: sent(broker) == [JOB])
    eventually(lambda: not outbox.unsent(database))


def test_a_relay_can_end_before_it_began(broker: Valkey, database: Database) -> None:
    Relay(broker.url, unsent=list, mark=print).stop()


def test_a_broker_is_reachable_while_it_listens(broker: Valkey) -> None:
    assert wake.reachable(broker.url)
    broker.kill()
    assert not wake.reachable(broker.url)
    assert not wake.reachable("redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    "url", ["amqp://localhost", "filesystem://", "sqla+sqlite:///x", "memory://", "localhost:6379"]
)
def test_brokers_that_lose_messages_are_refused(url: str) -> None:
    with pytest.raises(UnknownBroker):
        wake.make_app(url)
