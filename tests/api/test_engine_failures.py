"""An engine that dies: what its callers hear before and after the first token, and that the service recovers."""

import itertools
import json
import time
from pathlib import Path

import httpx
import pytest

from tests.support import engines
from tests.support.answering import Answering, answering
from tests.support.databases import SqliteDatabases
from tests.support.problems import problem


def test_a_dead_engine_is_an_error_event_in_a_stream_and_503_before_it(
    sqlite_databases: SqliteDatabases, tmp_path: Path
) -> None:
    sqlite_databases.copy(tmp_path)
    with answering(tmp_path) as served, served.live.client(served.live.key("member", project="p")) as client:
        asked = {"prompt": "x", "stream": True}
        with client.stream("POST", "/generate", json=asked) as answer:
            lines = (line for line in answer.iter_lines() if line)
            begun = list(itertools.islice(lines, 2))
            served.engine.kill()
            rest = list(lines)
        assert begun[0].startswith("data: ")
        assert rest[-1] != "data: [DONE]"
        event = json.loads(rest[-1].removeprefix("data: "))
        assert event["code"] == event["error"]["code"] == "engine_failed"
        assert event["error"]["type"] == "server_error"

        spent = _requests(served)
        for path, body in (("/generate", asked), ("/v1/chat/completions", CHAT)):
            refused = client.post(path, json=body)
            problem(refused, status=503, code="engine_unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        assert _requests(served) == spent == 1
        with served.live.client(None) as nobody:
            parts = nobody.get("/readyz").json()["parts"]
        assert {"name": "engine 1", "status": "degraded", "detail": "It does not answer."} in parts

        port = httpx.URL(served.engine.url).port
        with engines.running(served.base_dir, port=port or 0):
            _eventually(client, asked | {"stream": False, "max_tokens": 2})


CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "x"}]}


def _requests(served: Answering) -> int:
    served.live.runtime.usage.write()
    with served.live.runtime.database.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT coalesce(sum(requests), 0) FROM usage").scalar_one())


def _eventually(client: httpx.Client, body: dict[str, object]) -> None:
    """Ask as clients do that honour Retry-After; the service looks at an engine again every five seconds."""
    for _ in range(100):
        answer = client.post("/generate", json=body)
        if answer.status_code == 200:
            return
        assert answer.headers["x-should-retry"] == "true"
        time.sleep(0.1)
    pytest.fail("the engine is back and nobody asks it")
