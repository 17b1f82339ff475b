"""The process and its connections: who may ask from where, how slowly, and how it ends."""

import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from api import middleware, server
from tests.support.databases import SqliteDatabases
from tests.support.live import ADMIN, Live, serving
from tests.support.problems import problem

ROOT = Path(__file__).resolve().parents[2]


def _connect(url: str) -> socket.socket:
    address = urlsplit(url)
    connection = socket.create_connection((str(address.hostname), int(address.port or 0)))
    connection.settimeout(10)
    return connection


def _read_all(connection: socket.socket) -> bytes:
    received = b""
    while piece := connection.recv(65_536):
        received += piece
    return received


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "127.0.0.1@evil", "", "[::2]"]
)
def test_a_host_that_is_not_ours_is_refused(live: Live, host: str) -> None:
    with live.client() as client:
        problem(client.get("/jobs", headers={"Host": host}), status=400, code="unknown_host")
        assert client.get("/healthz", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9999", "127.0.0.1", "[::1]:80"])
def test_our_own_names_are_served(live: Live, host: str) -> None:
    with live.client() as client:
        assert client.get("/jobs", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "file://", "http://["])
def test_pages_of_other_sites_may_not_call(live: Live, origin: str) -> None:
    with live.client() as client:
        problem(client.get("/jobs", headers={"Origin": origin}), status=403, code="foreign_origin")
        problem(client.post("/jobs", json={}, headers={"Origin": origin}), status=403, code="foreign_origin")
        assert client.get("/jobs", headers={"Origin": live.url}).status_code == 200


def test_a_connection_serves_many_requests_even_with_bodies_nobody_reads(live: Live) -> None:
    connection = http.client.HTTPConnection(str(urlsplit(live.url).netloc), timeout=10)
    headers = {"Authorization": f"Bearer {ADMIN}", "Content-Type": "application/json"}
    connection.connect()
    first = connection.sock
    for _ in range(3):
        connection.request("POST", "/jobs/job_1/cancel", body=b"{}", headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 404
        assert connection.sock is first
    connection.close()


def test_an_announced_body_over_the_limit_is_refused_before_it_is_sent(live: Live) -> None:
    with _connect(live.url) as connection:
        head = f"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\nContent-Length: 99999999\r\n\r\n"
        connection.sendall(head.encode())
        answer = _read_all(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code":"body_too_large"' in answer


def test_slow_heads_and_bodies_are_cut(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEADERS_S", 0.3)
    monkeypatch.setattr(middleware, "BODY_IDLE_S", 0.3)
    for started in (b"", b"GET /jobs HTTP/1.1\r\nHo"):
        with _connect(live.url) as connection:
            connection.sendall(started)
            assert _read_all(connection) == b""
    received = b""
    with _connect(live.url) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while not received.endswith(b'{"status":"ok"}'):
            received += connection.recv(65_536)
        connection.sendall(b"GET /healthz HTT")  # a second head that never ends
        assert _read_all(connection) == b""
    with _connect(live.url) as connection:
        head = f"POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {ADMIN}\r\nContent-Type: application/json\r\n"
        connection.sendall(head.encode() + b"Content-Length: 10\r\n\r\n{")
        answer = _read_all(connection)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"request_timeout" in answer
    with _connect(live.url) as connection:  # a byte now and then is never idle, and never done
        connection.sendall(head.encode() + b"Content-Length: 1000\r\n\r\n")
        sent = 0
        while not select.select([connection], [], [], 0.1)[0] and sent < 50:
            connection.sendall(b" ")
            sent += 1
        assert sent < 50
        assert _read_all(connection).startswith(b"HTTP/1.1 408")


def test_readiness_names_every_part(live: Live) -> None:
    with live.client(None) as nobody:
        body = nobody.get("/readyz").json()
    assert body["ready"] is True
    assert {part["name"]: part["status"] for part in body["parts"]} == {
        "database": "ok",
        "storage": "ok",
        "broker": "degraded",
        "workers": "degraded",
    }


def test_a_service_without_storage_is_not_ready(sqlite_databases: SqliteDatabases, tmp_path: Path) -> None:
    sqlite_databases.copy(tmp_path)
    with serving(tmp_path, engine_url="http://127.0.0.1:9") as running, running.client(None) as nobody:
        assert nobody.get("/readyz").status_code == 200
        (tmp_path / "objects").rename(tmp_path / "gone")
        (tmp_path / "objects").write_text("no folder")
        answer = nobody.get("/readyz")
        assert answer.status_code == 503
        parts = {part["name"]: part["status"] for part in answer.json()["parts"]}
        assert (parts["storage"], parts["database"], parts["engine 1"]) == ("down", "ok", "degraded")
        assert nobody.get("/healthz").status_code == 200


def _process(folder: Path, port: int) -> subprocess.Popen[bytes]:
    (folder / "admin.key").write_text(ADMIN)
    environment = {
        "PATH": os.environ["PATH"],
        "BLUELORA_DATA_DIR": str(folder),
        "BLUELORA_PORT": str(port),
        "BLUELORA_ADMIN_KEY_FILE": str(folder / "admin.key"),
    }
    return subprocess.Popen([sys.executable, "-m", "api"], cwd=ROOT, env=environment, stderr=subprocess.PIPE)


def test_the_process_serves_logs_without_secrets_and_ends_in_order(
    sqlite_databases: SqliteDatabases, tmp_path: Path
) -> None:
    sqlite_databases.copy(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = _process(tmp_path, port)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {ADMIN}"}) as client:
        deadline = time.monotonic() + 60
        while True:
            try:
                client.get("/healthz").raise_for_status()
                break
            except httpx.TransportError:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.1)
        client.post("/generate", json={"prompt": "a private question"}, params={"q": "private"})
        client.get("/jobs/%0d%0aforged")
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=30)
    assert process.returncode == 0
    lines = [json.loads(line) for line in log.decode().splitlines()]
    answered = [line for line in lines if line["logger"] == "api.access"]
    assert {"/healthz", "/generate", "/jobs/\r\nforged"} <= {line["path"] for line in answered}
    assert all({"request_id", "method", "status", "seconds"} <= set(line) for line in answered)
    assert b"private" not in log
    assert ADMIN.encode() not in log


def test_the_process_refuses_an_old_schema_and_names_the_command(tmp_path: Path) -> None:
    process = _process(tmp_path, 0)
    _, log = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"python -m migrations upgrade" in log


def test_a_method_that_nobody_knows_makes_no_series_of_its_own(live: Live) -> None:
    with live.client() as client:
        client.request("BREW1", "/jobs")
        client.request("BREW2", "/jobs")
        shown = client.get("/metrics").text
    assert "BREW" not in shown
    assert 'bluelora_requests_total{method="other",route="/jobs",status="405"}' in shown
