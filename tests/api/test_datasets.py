"""Uploads over HTTP, in every way they come, and what is left when they are refused."""

import contextlib
import gzip
import io
import json
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from backports import zstd

from api.routes.uploads import RAW
from tests.support import registry
from tests.support.live import Live
from tests.support.problems import problem
from tests.support.registry import ROWS

FORM = {"file": ("训练.jsonl", ROWS)}


def _stored(live: Live) -> set[Path]:
    return set((live.runtime.settings.data_dir / "objects" / "blobs").iterdir())


def test_a_form_and_a_raw_body_make_versions_of_a_name(client: httpx.Client) -> None:
    first = client.post("/datasets", files=FORM, data={"name": "persona", "metadata": '{"team": "搜索"}'})
    assert first.status_code == 201, first.text
    shown = first.json()
    assert first.headers["location"] == f"/datasets/{shown['id']}"
    assert (shown["name"], shown["version"], shown["reference"]) == ("persona", 1, "persona@1")
    assert (shown["status"], shown["filename"]) == ("ready", "训练.jsonl")
    assert shown["summary"]["rows"] == 4
    assert shown["metadata"] == {"team": "搜索"}

    same = client.post("/datasets", params={"name": "persona"}, content=ROWS)
    assert same.status_code == 200
    assert same.json()["id"] == shown["id"]

    array = json.dumps([{"inputs": "问", "targets": "答"}]).encode()
    raw = client.post("/datasets", params={"name": "persona", "filename": "b.json"}, content=array)
    assert raw.status_code == 201
    assert raw.json()["reference"] == "persona@2"
    assert raw.json()["summary"]["container"] != shown["summary"]["container"]

    for name, version in (("persona", 2), ("persona@1", 1), (shown["id"], 1)):
        assert client.get(f"/datasets/{name}").json()["version"] == version
    assert [one["version"] for one in client.get("/datasets").json()["data"]] == [2, 1]


def _parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"prompt": ["a"], "completion": ["b"]}), file)
    return file.getvalue()


RAW_BODIES = {
    "application/octet-stream": (ROWS, "jsonl", None),
    "application/json": (b'[{"prompt": "a", "completion": "b"}]', "json", None),
    "application/jsonl": (ROWS, "jsonl", None),
    "application/x-jsonlines": (ROWS, "jsonl", None),
    "application/ndjson": (ROWS, "jsonl", None),
    "application/x-ndjson": (ROWS, "jsonl", None),
    "text/plain": (ROWS, "jsonl", None),
    "text/csv": (b"prompt,completion\na,b\n", "csv", None),
    "text/csv; charset=utf-8": (b"prompt,completion\na,b\n", "csv", None),
    "text/tab-separated-values": (b"prompt\tcompletion\na\tb\n", "tsv", None),
    "application/vnd.apache.parquet": (_parquet(), "parquet", None),
    "application/gzip": (gzip.compress(ROWS), "jsonl", "gzip"),
    "application/x-gzip": (gzip.compress(_parquet()), "parquet", "gzip"),
    "application/zstd": (zstd.compress(ROWS), "jsonl", "zstd"),
}


def test_every_raw_type_is_tried() -> None:
    assert {kind.partition(";")[0] for kind in RAW_BODIES} == RAW - {""}


@pytest.mark.parametrize("kind", RAW_BODIES)
def test_a_raw_body_may_call_itself_what_it_is_and_its_content_decides(client: httpx.Client, kind: str) -> None:
    for content, container, compression in (RAW_BODIES[kind], (b"prompt,completion\nc,d\n", "csv", None)):
        answer = client.post("/datasets", params={"name": "raw"}, content=content, headers={"Content-Type": kind})
        assert answer.status_code in {200, 201}, answer.text
        summary = answer.json()["summary"]
        assert (summary["container"], summary["compression"]) == (container, compression)
    lying = client.post("/datasets", params={"name": "raw"}, content=b"%PDF-1.7\n", headers={"Content-Type": kind})
    assert problem(lying, status=422, code="invalid_dataset")["errors"][0]["code"] == "binary_file"


def test_a_data_set_never_changes(client: httpx.Client) -> None:
    made = client.post("/datasets", params={"name": "rows"}, content=ROWS).json()
    path = f"/datasets/{made['id']}"
    rows = client.get(f"{path}/rows").json()
    later = {"tokens", "tokens_status"}  # counted behind the upload
    for method in ("PUT", "PATCH", "POST"):
        problem(client.request(method, path, content=ROWS * 2), status=405, code="method_not_allowed")
    assert client.post("/datasets", params={"name": "rows"}, content=ROWS * 2).json()["reference"] == "rows@2"
    for reference in (made["id"], "rows@1"):
        found = client.get(f"/datasets/{reference}").json()
        assert {name for name in made if found[name] != made[name]} <= later
        assert client.get(f"/datasets/{reference}/rows").json() == rows


def test_fields_may_follow_the_file(client: httpx.Client) -> None:
    after = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n' + ROWS + b"\r\n"
        b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nlate\r\n--b--\r\n'
    )
    answer = client.post("/datasets", content=after, headers={"Content-Type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 201, answer.text
    assert answer.json()["name"] == "late"


def test_the_same_key_gives_the_same_data_set_and_the_same_answer(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "upload-1"}
    first = client.post("/datasets", files=FORM, data={"name": "once"}, headers=key)
    again = client.post("/datasets", params={"name": "once"}, content=ROWS, headers=key)
    assert first.status_code == again.status_code == 201
    assert again.content == first.content
    assert again.headers["idempotency-replayed"] == "true"
    client.delete(f"/datasets/{first.json()['id']}").raise_for_status()
    late = client.post("/datasets", params={"name": "once"}, content=ROWS, headers=key)
    assert (late.status_code, late.content) == (201, first.content)
    assert client.get("/datasets").json()["data"] == []
    other = client.post("/datasets", params={"name": "other"}, content=ROWS, headers=key)
    problem(other, status=422, code="idempotency_key_reused")


BAD = [
    (b"", None),
    (b"\xef\xbb\xbf", None),
    (ROWS.decode().encode("utf-16"), None),
    (ROWS + b'{"instruction": "\xff", "input": "", "output": "x"}\n', 5),
    (ROWS + b'{"instruction": "a"}\n', 5),
    (ROWS + b'{"instruction": 1, "input": "", "output": "x"}\n', 5),
    (ROWS + b"[1]\n", 5),
    (ROWS + b'{"instruction": "a", "input": "", "output": "', 5),
    (b"PAR1" + bytes(100), None),
    (b"\x80\x04\x95" + bytes(100), None),
    (b"%PDF-1.7\n", None),
    (b"\x1f\x8b\x08" + bytes(100), None),
]


@pytest.mark.parametrize(("content", "line"), BAD, ids=range(len(BAD)))
def test_a_file_that_cannot_be_trained_on_is_refused_by_line_and_not_kept(
    client: httpx.Client, live: Live, content: bytes, line: int | None
) -> None:
    before = _stored(live)
    body = problem(client.post("/datasets", files={"file": ("a.jsonl", content)}), status=422, code="invalid_dataset")
    assert body["errors"]
    if line is not None:
        assert body["errors"][0]["line"] == line
    assert client.get("/datasets").json()["data"] == []
    assert _stored(live) == before


@pytest.mark.parametrize(
    ("form", "status", "code", "param"),
    [
        ({"data": {"name": "a/b"}, "files": FORM}, 422, "invalid_name", "name"),
        ({"data": {"name": "ds_x"}, "files": FORM}, 422, "invalid_name", "name"),
        ({"data": {"nme": "a"}, "files": FORM}, 422, "invalid_upload", "nme"),
        ({"data": {"metadata": "{"}, "files": FORM}, 422, "invalid_upload", "metadata"),
        ({"data": {"metadata": '{"a": 1}'}, "files": FORM}, 422, "invalid_upload", "metadata"),
        ({"data": {"metadata": "[]"}, "files": FORM}, 422, "invalid_upload", "metadata"),
        ({"data": {"sha256": "é" * 64}, "files": FORM}, 422, "invalid_upload", "sha256"),
        ({"params": {"nme": "a"}, "content": ROWS}, 422, "invalid_upload", "nme"),
        ({"params": {"name": "a"}, "files": FORM}, 422, "invalid_upload", "name"),
        ({"data": {"sha256": "0" * 64}, "files": FORM}, 422, "sha256_mismatch", "sha256"),
        ({"files": {"document": ("a.jsonl", ROWS)}}, 400, "malformed_form", "file"),
        ({"files": [("file", ("a", ROWS)), ("file", ("b", ROWS))]}, 400, "malformed_form", "file"),
        ({"params": {"name": "a/b"}, "content": ROWS}, 422, "invalid_name", "name"),
        ({"params": {"sha256": "zz"}, "content": ROWS}, 422, "invalid_value", "sha256"),
        ({"data": {"file": "rows"}}, 415, "unsupported_media_type", "content-type"),
        ({"content": ROWS, "headers": {"Content-Type": "image/png"}}, 415, "unsupported_media_type", "content-type"),
        ({"content": ROWS, "headers": {"Content-Encoding": "gzip"}}, 415, "unsupported_media_type", "content-encoding"),
        ({"content": ROWS, "headers": {"Content-Type": "multipart/form-data"}}, 400, "malformed_form", "content-type"),
    ],
)
def test_an_upload_that_is_said_wrong_is_refused_by_field_and_not_kept(
    client: httpx.Client, live: Live, form: dict[str, object], status: int, code: str, param: str
) -> None:
    before = _stored(live)
    body = problem(client.post("/datasets", **form), status=status, code=code)  # type: ignore[arg-type]
    assert body["error"]["param"] == param
    assert client.get("/datasets").json()["data"] == []
    assert _stored(live) == before


def test_an_upload_over_the_limit_is_refused_whether_or_not_it_says_so(client: httpx.Client, live: Live) -> None:
    before = _stored(live)
    line = ROWS.splitlines(keepends=True)[0]
    large = line * (3_000_000 // len(line))
    announced = client.post("/datasets", params={"name": "x"}, content=large)
    problem(announced, status=413, code="body_too_large")
    assert announced.headers["connection"] == "close"
    pieces = (large[start : start + 65_536] for start in range(0, len(large), 65_536))
    chunked = client.post("/datasets", params={"name": "x"}, content=pieces)
    problem(chunked, status=413, code=chunked.json()["code"])
    just_over = line * (1_000_000 // len(line) + 1)
    problem(client.post("/datasets", files={"file": ("a", just_over)}), status=413, code="file_too_large")
    assert client.get("/datasets").json()["data"] == []
    assert _stored(live) == before


def test_a_torn_upload_leaves_nothing(client: httpx.Client, live: Live) -> None:
    before = _stored(live)
    address = urlsplit(live.url)
    head = (
        f"POST /datasets?name=torn HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Authorization: {client.headers['authorization']}\r\nContent-Length: 100000\r\n\r\n"
    ).encode()
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
        connection.sendall(head + ROWS)
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
        torn = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + ROWS
        kind = b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: " + str(len(torn)).encode()
        connection.sendall(head.replace(b"?name=torn", b"").replace(b"Content-Length: 100000", kind) + torn)
        answer = b""
        while not answer.endswith(b"}}") and (received := connection.recv(65_536)):
            answer += received
    assert answer.startswith(b"HTTP/1.1 400"), answer
    assert b"malformed_form" in answer
    assert client.get("/datasets").json()["data"] == []
    assert _stored(live) == before


def test_uploads_beyond_the_limit_are_told_to_come_back(client: httpx.Client, live: Live) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(4):
            held.enter_context(live.runtime.uploads.taken())
        answer = client.post("/datasets", params={"name": "many"}, content=ROWS)
    problem(answer, status=429, code="too_many_uploads")
    assert (answer.headers["retry-after"], answer.headers["x-should-retry"]) == ("5", "true")
    assert client.post("/datasets", params={"name": "many"}, content=ROWS).status_code == 201
    refused = client.post("/datasets", params={"name": "bad"}, content=b"no rows")
    problem(refused, status=422, code="invalid_dataset")
    for _ in range(5):
        client.post("/datasets", params={"name": "bad"}, content=b"no rows")
    assert client.post("/datasets", params={"name": "many"}, content=ROWS).status_code == 200


def test_a_data_set_in_use_is_kept_and_a_free_one_goes(client: httpx.Client, live: Live) -> None:
    own = ROWS + b'{"instruction": "mine", "input": "", "output": "alone"}\n'
    made = client.post("/datasets", params={"name": "rows"}, content=own).json()["id"]
    job = registry.job(client)
    problem(client.delete(f"/datasets/{made}"), status=409, code="dataset_in_use")
    client.post(f"/jobs/{job}/cancel").raise_for_status()
    before = _stored(live)
    gone = client.delete(f"/datasets/{made}")
    assert gone.json() == {"id": made, "object": "dataset", "deleted": True}
    assert len(before - _stored(live)) == 1
    problem(client.get(f"/datasets/{made}"), status=404, code="dataset_not_found")
    problem(client.delete(f"/datasets/{made}"), status=404, code="dataset_not_found")
    problem(client.post("/jobs", json={"dataset": made, "name": "x"}), status=404, code="dataset_not_found")
