"""Plans over HTTP: the same body as a job's, the same refusals, and nothing is made."""

import io
import json
import math
import random
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.domain.containers import parquets
from core.domain.jobs import Status
from core.domain.training import Progress
from core.services import jobs, workers
from tests.api.test_jobs import BAD, LEAST, STATUS
from tests.support import registry, writers
from tests.support.live import Live
from tests.support.problems import problem

SEED = 5
PLAN = {"dataset": "rows", "name": "mine", "base_model": "tiny"}
ALPACA = [{"instruction": f"第{n}问", "input": "", "output": f"第{n}答" + "好" * (n % 5)} for n in range(40)]


@pytest.fixture(autouse=True)
def _rows(live: Live, client: httpx.Client) -> None:
    registry.dataset(live.runtime, client)


@pytest.fixture
def upload(client: httpx.Client) -> Any:
    def send(rows: list[dict[str, Any]], name: str = "mine") -> str:
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        answer = client.post("/datasets", params={"name": name}, content=content)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    return send


@pytest.mark.usefixtures("tiny")
def test_a_plan_tells_tokens_steps_memory_time_and_previews_and_makes_nothing(
    client: httpx.Client, upload: Any
) -> None:
    dataset = upload(ALPACA)
    answer = client.post("/jobs/plan", json=PLAN | {"dataset": "mine", "validation_ratio": 0.2})
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert plan["object"] == "job.plan"
    assert plan["dataset"] == dataset
    assert plan["resolved_spec"]["max_length"] == 256
    assert plan["rows"]["train"]["rows"] + plan["rows"]["validation"]["rows"] == 40
    assert plan["steps"] == {
        "total": 6,
        "per_epoch": 2,
        "rows": 16,
        "warmup": 0,
        "evaluations": 3,
        "checkpoints": 0,
    }
    tokens = plan["tokens"]
    assert tokens["all_steps"]["total"] == 3 * tokens["per_epoch"]["total"] == tokens["low"] == tokens["high"]
    assert 0 < tokens["all_steps"]["trained"] < tokens["all_steps"]["total"]
    assert tokens["padding_avoided"] > 0
    assert not plan["estimated"]
    memory = plan["memory"]
    assert memory["total_bytes"] == sum(
        value for name, value in memory.items() if name.endswith("_bytes") and name != "total_bytes"
    )
    assert plan["time"]["low_seconds"] is None
    assert "speed is unknown" in plan["time"]["reason"]
    assert [preview["why"] for preview in plan["previews"]] == ["first", "longest", "middle"]
    assert client.get("/jobs").json()["data"] == []


def _large_parquet() -> bytes:
    """Rows with a column that nobody reads, which makes the file too large to be kept in memory while it is read."""
    table = pa.Table.from_pylist([row | {"source": f"{n} {'x' * 2**18}"} for n, row in enumerate(ALPACA)])
    file = io.BytesIO()
    pq.write_table(table, file, compression="NONE")
    assert file.tell() > parquets.SMALL_BYTES
    return file.getvalue()


FILES: Mapping[str, Callable[[random.Random], bytes]] = {
    "parquet": lambda dice: writers.parquet(ALPACA, dice),
    "csv, gzip": lambda dice: writers.gzipped(writers.CONTAINERS["csv"](ALPACA, dice), dice),
    "tsv, zstd": lambda dice: writers.zstandard(writers.CONTAINERS["tsv"](ALPACA, dice), dice),
    "parquet, gzip": lambda dice: writers.gzipped(_large_parquet(), dice),
}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("kind", FILES)
def test_the_same_rows_in_another_file_have_the_same_plan(client: httpx.Client, upload: Any, kind: str) -> None:
    upload(ALPACA)
    answer = client.post("/datasets", params={"name": "other"}, content=FILES[kind](random.Random(SEED)))
    assert answer.status_code == 201, answer.text
    summary = answer.json()["summary"]
    assert ", ".join(filter(None, (summary["container"], summary["compression"]))) == kind
    answers = [
        client.post("/jobs/plan", json=PLAN | {"dataset": name, "validation_ratio": 0.2}) for name in ("mine", "other")
    ]
    assert [answer.status_code for answer in answers] == [200, 200], answers[1].text
    plain, other = (answer.json() for answer in answers)
    assert other["rows"]["train"]["rows"] + other["rows"]["validation"]["rows"] == len(ALPACA)
    # All of a plan follows from the rows but their lines: a table's first is its header.
    for name in ("tokens", "steps", "memory", "estimated"):
        assert other[name] == plain[name]
    for one, twin in zip(plain["previews"], other["previews"], strict=True):
        assert one["pieces"] == twin["pieces"]


@pytest.mark.usefixtures("tiny")
def test_a_preview_shows_every_token_and_marks_the_learnt_ones(client: httpx.Client, upload: Any) -> None:
    upload([{"instruction": "一", "input": "", "output": "A好"}, {"instruction": "二", "input": "", "output": "B"}])
    plan = client.post("/jobs/plan", json=PLAN | {"dataset": "mine", "max_steps": 1}).json()
    preview = plan["previews"][0]
    assert (preview["line"], preview["why"], preview["omitted"]) == (1, "first", 0)
    shown = [piece["text"] if piece["bytes"] is None else bytes.fromhex(piece["bytes"]) for piece in preview["pieces"]]
    # The tiny tokenizer has a piece a byte: Chinese characters are shown as the bytes that they are cut into.
    question, answer = ([bytes([byte]) for byte in word.encode()] for word in "一好")
    assert shown == ["<s>", "[|Human|]:", " ", *question, "[|AI|]:", " ", "A", *answer, "</s>"]
    learnt = [piece["trained"] for piece in preview["pieces"]]
    assert learnt == [False] * 7 + [True] * 6
    assert [piece["control"] for piece in preview["pieces"]] == [True, True] + [False] * 4 + [True] + [False] * 5 + [
        True
    ]
    assert preview["tokens"] == {"total": 13, "trained": 6}


@pytest.mark.parametrize(("change", "field", "code"), BAD, ids=[json.dumps(change)[:60] for change, _, _ in BAD])
def test_what_a_job_refuses_is_refused_alike(
    client: httpx.Client, change: dict[str, object], field: str, code: str
) -> None:
    sent = json.dumps(LEAST | change)
    headers = {"Content-Type": "application/json"}
    planned, submitted = (client.post(path, content=sent, headers=headers) for path in ("/jobs/plan", "/jobs"))
    body = problem(planned, status=STATUS.get(code, 422), code=code)
    assert body["error"]["param"] == field
    assert submitted.json() == body | {"instance": "/jobs"}


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("rows", "change", "code", "words"),
    [
        (ALPACA[:1], {"validation_ratio": 0.5}, "cannot_split", "two different first questions"),
        ([ALPACA[0]] * 3, {"validation_ratio": 0.5}, "cannot_split", "two different first questions"),
        (ALPACA[:3], {"max_length": 8}, "rows_too_long", "line(s) 1, 2, 3"),
        (ALPACA[:3], {"max_length": 8, "overlong": "drop"}, "no_rows_left", "all 3 are longer"),
        (ALPACA[:3], {"max_length": 8, "overlong": "truncate"}, "rows_too_long", "no room for an answer"),
    ],
)
def test_what_the_trainer_would_refuse_is_refused_before_it_starts(
    client: httpx.Client, upload: Any, rows: list[dict[str, Any]], change: dict[str, Any], code: str, words: str
) -> None:
    upload(rows)
    body = problem(client.post("/jobs/plan", json=PLAN | {"dataset": "mine"} | change), status=422, code=code)
    assert words in body["detail"]


def test_a_job_that_would_split_one_row_is_refused(client: httpx.Client, upload: Any) -> None:
    upload(ALPACA[:1])
    answer = client.post("/jobs", json=LEAST | {"dataset": "mine", "validation_ratio": 0.5})
    assert problem(answer, status=422, code="cannot_split")["error"]["param"] == "validation_ratio"


@pytest.mark.usefixtures("tiny")
def test_cut_and_dropped_rows_are_named(client: httpx.Client, upload: Any) -> None:
    upload(ALPACA)
    fields = PLAN | {"dataset": "mine", "max_length": 30}
    cut = client.post("/jobs/plan", json=fields | {"overlong": "truncate"}).json()
    dropped = client.post("/jobs/plan", json=fields | {"overlong": "drop"}).json()
    lines = cut["rows"]["train"]["truncated_lines"]
    assert lines == dropped["rows"]["train"]["dropped_lines"]
    assert len(lines) == cut["rows"]["train"]["truncated"] == dropped["rows"]["train"]["dropped"] > 0
    assert cut["rows"]["train"]["longest"] == 30
    assert [preview["why"] for preview in cut["previews"]] == ["first", "truncated", "middle"]
    assert {"many_truncated"} <= {one["code"] for one in cut["warnings"]}
    assert {"many_dropped"} <= {one["code"] for one in dropped["warnings"]}


@pytest.mark.usefixtures("tiny")
def test_what_is_odd_is_told_and_refuses_nothing(client: httpx.Client, upload: Any) -> None:
    upload(ALPACA[:5])
    odd = {"learning_rate": 0.5, "r": 64, "num_train_epochs": 100, "validation_ratio": 0.4, "eval_steps": 1}
    plan = client.post("/jobs/plan", json=PLAN | {"dataset": "mine"} | odd).json()
    codes = {one["code"] for one in plan["warnings"]}
    assert {"unusual_learning_rate", "large_r", "many_epochs", "fewer_rows_than_a_step"} <= codes
    assert all(one["hint"] for one in plan["warnings"])


@pytest.mark.usefixtures("tiny")
def test_the_time_comes_from_the_ledger_of_the_base(live: Live, client: httpx.Client, upload: Any) -> None:
    upload(ALPACA)
    job = client.post("/jobs", json=PLAN | {"dataset": "mine"}).json()["id"]
    held = registry.claimed(live.runtime, job)
    progress = Progress(
        step=1,
        total_steps=1,
        epoch=1,
        loss=1.0,
        learning_rate=1e-4,
        grad_norm=1.0,
        tokens_per_second=1.0,
        trained_tokens=10_000,
        eta_seconds=0.0,
    )
    jobs.record(held, progress, database=live.runtime.database, lease_s=60)
    jobs.release(held, to=Status.CANCELLED, database=live.runtime.database)
    plan = client.post("/jobs/plan", json=PLAN | {"dataset": "mine"}).json()
    assert plan["time"]["measured_attempts"] >= 1
    assert plan["time"]["reason"] is None
    assert 0 < plan["time"]["low_seconds"] <= plan["time"]["high_seconds"] < math.inf


@pytest.mark.usefixtures("tiny")
def test_a_training_that_fits_no_worker_is_told(live: Live, client: httpx.Client, upload: Any) -> None:
    upload(ALPACA)
    small = registry.WORKER.__class__(id="wk_small", host="here", device="cpu", memory_bytes=2**20)
    workers.register(small, database=live.runtime.database)
    try:
        plan = client.post("/jobs/plan", json=PLAN | {"dataset": "mine"}).json()
        assert plan["workers"] == {"alive": 1, "fitting": 0}
        assert plan["memory"]["precision"] == "fp32"
        assert "does_not_fit" in {one["code"] for one in plan["warnings"]}
    finally:
        workers.leave(small.id, database=live.runtime.database)


def test_a_plan_needs_a_member(live: Live, project: str) -> None:
    with live.client(live.key("read", project=project)) as reader:
        problem(reader.post("/jobs/plan", json=LEAST), status=403, code="role_too_low")


def test_a_base_whose_files_are_gone_is_unavailable(live: Live, client: httpx.Client, upload: Any) -> None:
    upload(ALPACA)
    problem(client.post("/jobs/plan", json=LEAST | {"dataset": "mine"}), status=503, code="base_unusable")
