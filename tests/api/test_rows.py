"""Pages of a data set's rows: every row once, in order, whatever the file looks like, and a made-up cursor is a 4xx."""

import gzip
import io
import json
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.domain.excerpts import MAX_TURNS
from core.services import excerpts
from tests.support.live import Live
from tests.support.problems import problem

ROWS = [{"instruction": f"第{n}问", "input": "", "output": f"第{n}答" + "\u2028好" * (n % 7)} for n in range(1, 48)]
LINES = [json.dumps(row, ensure_ascii=False) for row in ROWS]
FILES = {
    "jsonl": "\n".join(LINES) + "\n",
    "no line feed at the end": "\n".join(LINES),
    "blank lines": "\n\n" + "\n \n".join(LINES) + "\n\n \n",
    "carriage returns and a mark": "\ufeff" + "\r\n".join(LINES) + "\r\n",
    "an array": "[" + ",".join(LINES) + "]",
    "an array on many lines": json.dumps(ROWS, ensure_ascii=False, indent=1),
}


def _parquet(group_rows: int) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=group_rows)
    return file.getvalue()


BINARY = {
    "Parquet": _parquet(10),
    "Parquet in one group": _parquet(1000),
    "Parquet, packed": gzip.compress(_parquet(10)),
    "JSONL, packed": gzip.compress(FILES["jsonl"].encode()),
}


def _upload(client: httpx.Client, content: str | bytes, name: str = "rows") -> None:
    sent = content if isinstance(content, bytes) else content.encode()
    answer = client.post("/datasets", params={"name": name}, content=sent)
    assert answer.status_code == 201, answer.text


def _all(client: httpx.Client, limit: int) -> list[dict[str, Any]]:
    """Page through to the end, as clients do."""
    seen: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        answer = client.get("/datasets/rows/rows", params={"limit": limit, **after})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        seen += page["data"]
        if not page["has_more"]:
            last = client.get("/datasets/rows/rows", params={"after": seen[-1]["id"]})
            assert last.json()["data"] == []
            return seen
        assert len(page["data"]) == limit
        after = {"after": page["data"][-1]["id"]}


@pytest.mark.parametrize("piece_bytes", [17, 200, 2**18])
@pytest.mark.parametrize("kind", FILES)
def test_pages_hold_every_row_once_in_order(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, kind: str, piece_bytes: int
) -> None:
    monkeypatch.setattr(excerpts, "PIECE_BYTES", piece_bytes)
    _upload(client, FILES[kind])
    seen = _all(client, 7)
    assert [row["row"] for row in seen] == list(range(1, 48))
    assert [[turn["content"] for turn in row["turns"]] for row in seen] == [
        [row["instruction"], row["output"]] for row in ROWS
    ]
    text = FILES[kind].split("\n")
    for row, source in zip(seen, ROWS, strict=True):
        # The line that is named is where the row is, counted by line feeds alone.
        assert kind.startswith("an array") or source["instruction"] in text[row["line"] - 1]
    assert {turn["role"] for row in seen for turn in row["turns"]} == {"user", "assistant"}


@pytest.mark.parametrize("kind", BINARY)
def test_pages_of_binary_files_hold_every_row_once_in_order(client: httpx.Client, kind: str) -> None:
    _upload(client, BINARY[kind])
    seen = _all(client, 20)
    assert [row["row"] for row in seen] == list(range(1, 48))
    assert [row["line"] for row in seen] == list(range(1, 48))
    assert [[turn["content"] for turn in row["turns"]] for row in seen] == [
        [row["instruction"], row["output"]] for row in ROWS
    ]
    assert client.get("/datasets/rows/rows", params={"after": "99999"}).json()["data"] == []


def test_a_page_of_long_rows_of_parquet_ends_early(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpts, "PAGE_CHARACTERS", 10)
    _upload(client, BINARY["Parquet"])
    page = client.get("/datasets/rows/rows", params={"limit": 100}).json()
    assert page["has_more"]
    assert 1 <= len(page["data"]) < 5


def test_a_bare_number_leads_to_the_rows_behind_it(client: httpx.Client) -> None:
    _upload(client, FILES["jsonl"])
    page = client.get("/datasets/rows/rows", params={"after": "40", "limit": 3}).json()
    assert [row["row"] for row in page["data"]] == [41, 42, 43]
    assert page["has_more"]
    assert client.get("/datasets/rows/rows", params={"after": "47"}).json()["data"] == []
    assert client.get("/datasets/rows/rows", params={"after": "row_99999"}).json()["data"] == []


def test_a_page_in_plain_jsonl_is_read_from_where_the_last_one_ended(live: Live, client: httpx.Client) -> None:
    _upload(client, FILES["jsonl"])
    first = client.get("/datasets/rows/rows", params={"limit": 30}).json()["data"][-1]
    offset = len("".join(line + "\n" for line in LINES[:30]).encode())
    assert first["id"] == f"row_30_30_{offset}"


@pytest.mark.parametrize("after", ["x", "row_", "row_1_2", "-1", "1.5", "row_1_1_99999999999999999999", "ds_1", "\0"])
def test_a_cursor_that_is_none_is_refused(client: httpx.Client, after: str) -> None:
    _upload(client, FILES["jsonl"])
    problem(client.get("/datasets/rows/rows", params={"after": after}), status=422, code="unknown_cursor")


@pytest.mark.parametrize("offset", [1, 5, 33])
def test_a_made_up_offset_leads_nowhere(client: httpx.Client, offset: int) -> None:
    _upload(client, FILES["jsonl"])
    answer = client.get("/datasets/rows/rows", params={"after": f"row_1_1_{offset}"})
    problem(answer, status=422, code="unknown_cursor")


def test_a_page_that_lies_too_deep_is_refused_with_what_to_do(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "[" + ",".join([LINES[0]] * 600) + "]"
    _upload(client, rows)
    monkeypatch.setattr(excerpts, "SCAN_S", -1.0)
    body = problem(client.get("/datasets/rows/rows", params={"after": "500"}), status=422, code="page_too_deep")
    assert "JSONL" in body["detail"]
    assert client.get("/datasets/rows/rows").status_code == 200


def test_a_page_of_long_rows_ends_early(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excerpts, "PAGE_CHARACTERS", 10)
    _upload(client, FILES["jsonl"])
    page = client.get("/datasets/rows/rows", params={"limit": 100}).json()
    assert page["has_more"]
    assert 1 <= len(page["data"]) < 5


@pytest.mark.parametrize("kind", ["jsonl", "array", "parquet"])
def test_a_row_of_too_many_turns_is_refused_with_what_leads_behind_it(client: httpx.Client, kind: str) -> None:
    both = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    rows = [{"conversations": both * pairs} for pairs in (1, MAX_TURNS // 2 + 1, 2)]
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    content = (
        file.getvalue() if kind == "parquet" else ("\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]")
    )
    _upload(client, content)

    first = client.get("/datasets/rows/rows").json()
    assert first["has_more"]
    (row,) = first["data"]
    answer = client.get("/datasets/rows/rows", params={"after": row["id"]})
    detail = problem(answer, status=422, code="too_many_turns")["detail"]
    behind = str(detail).rpartition("after=")[2].rstrip(".")
    if kind == "jsonl":
        assert behind == f"row_2_2_{len(lines[0]) + len(lines[1]) + 2}"
    rest = client.get("/datasets/rows/rows", params={"after": behind}).json()
    assert [(row["row"], len(row["turns"])) for row in rest["data"]] == [(3, 4)]
    assert not rest["has_more"]


@pytest.mark.usefixtures("tiny")
def test_rows_are_shown_as_a_base_is_trained_on_them(client: httpx.Client) -> None:
    _upload(client, json.dumps({"instruction": "a", "input": "", "output": "b"}) + "\n")
    asked = {"rendered": "true", "base_model": "tiny", "system_prompt": "s"}
    (row,) = client.get("/datasets/rows/rows", params=asked).json()["data"]
    shown = row["rendered"]
    assert shown["tokens"] == {"total": 12, "trained": 3}
    assert "".join(piece["text"] for piece in shown["pieces"] if piece["trained"]) == " b</s>"
    plain = client.get("/datasets/rows/rows").json()["data"][0]
    assert plain["rendered"] is None


def test_there_are_no_rows_of_what_is_not_there_or_can_not_be_read(live: Live, client: httpx.Client) -> None:
    problem(client.get("/datasets/nothing/rows"), status=404, code="dataset_not_found")
    _upload(client, FILES["jsonl"])
    problem(
        client.get("/datasets/rows/rows", params={"rendered": "true", "base_model": "none"}),
        status=404,
        code="base_not_found",
    )
    problem(client.get("/datasets/rows/rows", params={"limit": 0}), status=422, code="out_of_range")
