"""Every format, container and compression, from the file to an adapter that answers, by HTTP alone."""

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

import pytest

from core.domain.compression import Compression
from core.domain.containers import Container
from core.domain.datasets import Turn
from core.domain.rows import FORMATS
from tests.support import writers
from tests.support.service import ASSETS, Service

FILES: Final = (
    ("alpaca", "json", None),
    ("bluelm", "tsv", "zstd"),
    ("openai", "jsonl", "gzip"),
    ("sharegpt", "parquet", None),
    ("prompt_completion", "csv", "gzip"),
    ("openai", "parquet", "zstd"),
)
ROWS: Final = 12
JOB: Final[Mapping[str, Any]] = {"max_steps": 1, "per_device_train_batch_size": 4}
SEED: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """A file that was uploaded, and the job on it."""

    content: bytes
    dataset: dict[str, Any]
    plan: dict[str, Any]
    job: str


def conversations(format_name: str) -> list[tuple[Turn, ...]]:
    """Rows of the sample, with an earlier exchange that is not learnt where the format can say so."""
    lines = (ASSETS / "sample.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
    first = (Turn("user", "在吗？"), Turn("assistant", "在。", weight=0))
    has_weights = format_name in {"openai", "sharegpt"}
    return [
        (*(first if has_weights else ()), Turn("user", row["instruction"]), Turn("assistant", row["output"]))
        for row in map(json.loads, lines)
    ]


@pytest.fixture(scope="module")
def trainings(service: Service) -> list[Training]:
    """All jobs at once, as one worker takes them one after another; both packing modes in turn."""
    return [
        submitted(service, kind, container, compression, packing=("exact", "packed")[place % 2])
        for place, (kind, container, compression) in enumerate(FILES)
    ]


def submitted(service: Service, kind: str, container: str, compression: str | None, *, packing: str) -> Training:
    dice = random.Random(SEED)
    rows = [writers.ROWS[kind](turns, dice) for turns in conversations(kind)]
    content = writers.COMPRESSIONS[compression](writers.CONTAINERS[container](rows, dice), dice)
    name = "-".join(filter(None, (kind, container, compression)))
    uploaded = service.http.post("/datasets", params={"name": name}, content=content)
    assert uploaded.status_code == 201, uploaded.text
    dataset = uploaded.json()
    spec = {**JOB, "dataset": dataset["id"], "name": name, "packing": packing}
    planned = service.http.post("/jobs/plan", json=spec, timeout=60)
    assert planned.status_code == 200, planned.text
    return Training(content=content, dataset=dataset, plan=planned.json(), job=service.submit(**spec))


def test_the_files_are_of_every_format_container_and_compression() -> None:
    formats, containers, compressions = map(set, zip(*FILES, strict=True))
    assert formats == {one.name for one in FORMATS}
    assert containers == set(get_args(Container))
    assert compressions == {None, *get_args(Compression)}


@pytest.mark.parametrize("place", range(len(FILES)), ids=["-".join(filter(None, file)) for file in FILES])
def test_a_file_becomes_an_adapter_that_answers(service: Service, trainings: list[Training], place: int) -> None:
    training = trainings[place]
    summary = training.dataset["summary"]
    assert (summary["format"], summary["container"], summary["compression"]) == FILES[place]
    assert (summary["rows"], summary["errors"]) == (ROWS, 0)
    assert training.dataset["sha256"] == hashlib.sha256(training.content).hexdigest()

    ended = service.ended(training.job)
    assert ended["status"] == "succeeded", ended
    assert ended["progress"]["step"] == training.plan["steps"]["total"] == 1
    adapter = ended["adapter"]["id"]
    manifest = service.http.get(f"/adapters/{adapter}/files/manifest.json").json()
    assert manifest["dataset_sha256"] == training.dataset["sha256"]
    assert manifest["metrics"]["samples"] == training.plan["rows"]["train"]["rows"] == ROWS
    assert manifest["trained_tokens"] == training.plan["tokens"]["all_steps"]["total"] > 0

    answer = service.http.post("/generate", json={"prompt": "你叫什么名字？", "adapter": adapter, "max_tokens": 4})
    assert answer.status_code == 200, answer.text
    assert answer.json()["adapter"]["id"] == adapter
    assert answer.json()["usage"]["completion_tokens"] > 0
