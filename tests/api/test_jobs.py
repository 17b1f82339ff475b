"""Jobs over HTTP: what a spec may say, and what a job shows of itself."""

import json
import math
from pathlib import Path

import httpx
import pytest

from core.domain.jobs import Failure, FailureClass, Phase, Status
from core.domain.training import Evaluated, Progress
from core.services import jobs
from tests.support import registry
from tests.support.live import Live
from tests.support.problems import problem

LEAST = {"dataset": "rows", "name": "mine"}


@pytest.fixture(autouse=True)
def rows(live: Live, client: httpx.Client) -> str:
    return registry.dataset(live.runtime, client)


def test_a_job_needs_only_a_data_set_and_a_name(client: httpx.Client, rows: str) -> None:
    answer = client.post("/jobs", json=LEAST)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert job["status"] == "queued"
    assert job["status_reason"] == "no_capable_worker"
    assert job["phase"] == "waiting"
    assert job["spec"] == LEAST
    assert job["adapter"] is None
    assert job["dataset"] == rows
    resolved = job["resolved_spec"]
    assert resolved["dataset"] == rows
    assert resolved["base_model"] == "plain"
    assert (resolved["r"], resolved["lora_alpha"], resolved["lora_dropout"]) == (8, 32, 0.1)
    assert (resolved["num_train_epochs"], resolved["learning_rate"], resolved["max_length"]) == (3, 1e-4, 128)
    assert client.get(f"/jobs/{job['id']}").json() == job


BAD = [
    ({"r": 0}, "r", "out_of_range"),
    ({"r": -1}, "r", "out_of_range"),
    ({"r": 1.5}, "r", "wrong_type"),
    ({"r": "8"}, "r", "wrong_type"),
    ({"r": True}, "r", "wrong_type"),
    ({"r": 10**30}, "r", "out_of_range"),
    ({"r": 65}, "r", "invalid_spec"),
    ({"lora_alpha": math.nan}, "lora_alpha", "out_of_range"),
    ({"lora_alpha": math.inf}, "lora_alpha", "out_of_range"),
    ({"lora_dropout": 1}, "lora_dropout", "out_of_range"),
    ({"learning_rate": 0}, "learning_rate", "out_of_range"),
    ({"learning_rate": 1e9}, "learning_rate", "out_of_range"),
    ({"learning_rate": math.nan}, "learning_rate", "out_of_range"),
    ({"learning_rate": "1e-4"}, "learning_rate", "wrong_type"),
    ({"num_train_epochs": 10**9}, "num_train_epochs", "out_of_range"),
    ({"num_train_epochs": 0}, "num_train_epochs", "out_of_range"),
    ({"max_steps": 0}, "max_steps", "out_of_range"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size", "out_of_range"),
    ({"target_modules": ".*"}, "target_modules", "wrong_type"),
    ({"target_modules": []}, "target_modules", "out_of_range"),
    ({"target_modules": ["(a+)+$"]}, "target_modules", "invalid_value"),
    ({"target_modules": ["q_proj", "q_proj"]}, "target_modules", "invalid_value"),
    ({"lr_scheduler_type": "step"}, "lr_scheduler_type", "unknown_value"),
    ({"packing": True}, "packing", "unknown_value"),
    ({"base_model": "../../etc"}, "base_model", "base_not_found"),
    ({"base_model": "http://169.254.169.254/"}, "base_model", "base_not_found"),
    ({"base_model": ""}, "base_model", "out_of_range"),
    ({"base_precision": "fp8"}, "base_precision", "invalid_spec"),
    ({"dataset": "nothing"}, "dataset", "dataset_not_found"),
    ({"dataset": "../rows"}, "dataset", "dataset_not_found"),
    ({"dataset": 7}, "dataset", "wrong_type"),
    ({"validation_dataset": "nothing"}, "validation_dataset", "dataset_not_found"),
    ({"validation_dataset": "rows", "validation_ratio": 0.1}, "validation_ratio", "invalid_spec"),
    ({"eval_steps": 5}, "eval_steps", "invalid_spec"),
    ({"early_stopping_patience": 2}, "early_stopping_patience", "invalid_spec"),
    ({"max_length": 4096}, "max_length", "invalid_spec"),
    ({"name": "a/b"}, "name", "invalid_value"),
    ({"name": "a\nb"}, "name", "invalid_value"),
    ({"name": "Großes"}, "name", "invalid_value"),
    ({"name": "ad_mine"}, "name", "invalid_value"),
    ({"name": "plain"}, "name", "name_taken"),
    ({"name": ""}, "name", "invalid_value"),
    ({"priority": 11}, "priority", "out_of_range"),
    ({"priority": 1}, "priority", "role_too_low"),
    ({"metadata": {"a": 1}}, "metadata.a", "wrong_type"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "out_of_range"),
    ({"metadata": {str(n): 1 for n in range(17)}}, "metadata", "out_of_range"),
    ({"seed": -1}, "seed", "out_of_range"),
    ({"method": "dpo"}, "method", "unknown_value"),
    ({"spec_version": 2}, "spec_version", "unknown_value"),
]
STATUS = {"base_not_found": 404, "dataset_not_found": 404, "name_taken": 409, "role_too_low": 403}


@pytest.mark.parametrize(("change", "field", "code"), BAD, ids=[json.dumps(change)[:60] for change, _, _ in BAD])
def test_a_bad_spec_is_refused_by_field_and_nothing_is_stored(
    client: httpx.Client, change: dict[str, object], field: str, code: str
) -> None:
    sent = json.dumps(LEAST | change)  # NaN and Infinity as Python's clients write them
    answer = client.post("/jobs", content=sent, headers={"Content-Type": "application/json"})
    body = problem(answer, status=STATUS.get(code, 422), code=code)
    assert body["error"]["param"] == field
    assert client.get("/jobs").json()["data"] == []


def test_an_unknown_field_is_refused_with_the_nearest_known_one(client: httpx.Client) -> None:
    body = problem(client.post("/jobs", json=LEAST | {"lerning_rate": 1}), status=422, code="unknown_parameter")
    assert body["error"]["param"] == "lerning_rate"
    assert "learning_rate" in body["detail"]


def test_modules_of_other_models_are_refused_with_what_to_use(client: httpx.Client) -> None:
    qwen = {"target_modules": ["c_attn", "c_proj", "w1", "w2"]}
    body = problem(client.post("/jobs", json=LEAST | qwen), status=422, code="invalid_value")
    for hint in ("for c_attn use q_proj, k_proj, v_proj", "for w1 use up_proj", "down_proj"):
        assert hint in body["detail"]


def test_every_fault_of_a_spec_is_listed(client: httpx.Client) -> None:
    answer = client.post("/jobs", json={"name": "x", "r": 0, "learning_rate": -1})
    body = problem(answer, status=422, code=answer.json()["code"])
    assert {(finding["field"], finding["code"]) for finding in body["errors"]} == {
        ("dataset", "missing_field"),
        ("r", "out_of_range"),
        ("learning_rate", "out_of_range"),
    }


def test_a_body_full_of_faults_gets_a_list_that_can_be_read(client: httpx.Client) -> None:
    turns = [{"role": 1, "content": 1}] * 900
    answer = client.post("/v1/chat/completions", json={"model": "plain", "messages": turns})
    assert len(problem(answer, status=400, code="unknown_value")["errors"]) == 100


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_json"),
        (b"\xff\xfe{}", "application/json", 400, "malformed_json"),
        (b'{"name": "a", "name": "b"}', "application/json", 400, "malformed_json"),
        (b'{"a": ' + b"[" * 50_000, "application/json", 400, "malformed_json"),
        (b"[]", "application/json", 422, "wrong_type"),
        (b"null", "application/json", 422, "wrong_type"),
        (b'"text"', "application/json", 422, "wrong_type"),
        (b"", "application/json", 422, "missing_field"),
        (b"{}", "text/plain", 415, "unsupported_media_type"),
        (b"name=a", "application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        (b"{}" + b" " * 70_000, "application/json", 413, "body_too_large"),
    ],
)
def test_bodies_that_are_no_spec(client: httpx.Client, body: bytes, content_type: str, status: int, code: str) -> None:
    answer = client.post("/jobs", content=body, headers={"Content-Type": content_type})
    problem(answer, status=status, code=code)


def test_the_same_key_gives_the_same_job_and_the_same_answer(client: httpx.Client) -> None:
    key = {"Idempotency-Key": '"a key"'}
    first = client.post("/jobs", json=LEAST, headers=key)
    client.post(f"/jobs/{first.json()['id']}/cancel")
    # Other spacing and order of the same members are the same request.
    again = client.post("/jobs", content='{"name": "mine",  "dataset": "rows"}', headers=key | JSON)
    assert again.status_code == first.status_code == 202
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len(client.get("/jobs").json()["data"]) == 1


JSON = {"Content-Type": "application/json"}


def test_a_key_used_for_another_request_is_refused(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "once"}
    client.post("/jobs", json=LEAST, headers=key).raise_for_status()
    other = client.post("/jobs", json=LEAST | {"r": 4}, headers=key)
    problem(other, status=422, code="idempotency_key_reused")


def test_a_refused_request_leaves_its_key_free(client: httpx.Client) -> None:
    key = {"Idempotency-Key": "later"}
    problem(client.post("/jobs", json=LEAST | {"r": 65}, headers=key), status=422, code="invalid_spec")
    assert client.post("/jobs", json=LEAST, headers=key).status_code == 202


@pytest.mark.parametrize("key", [b"", b"a b", b"x" * 256, b"\x7f", "é".encode()])
def test_a_key_that_is_none_is_refused(client: httpx.Client, key: bytes) -> None:
    answer = client.post("/jobs", json=LEAST, headers={b"Idempotency-Key": key})
    problem(answer, status=400, code="invalid_idempotency_key")


def test_jobs_are_listed_newest_first_and_page_without_gaps(client: httpx.Client) -> None:
    made = [registry.job(client, name=f"n{n}", metadata={"n": str(n % 2)}) for n in range(5)]
    seen: list[str] = []
    after = None
    while True:
        page = client.get("/jobs", params={"limit": 2} | ({"after": after} if after else {})).json()
        seen += [job["id"] for job in page["data"]]
        registry.job(client, name="meanwhile")
        if not page["has_more"]:
            break
        after = seen[-1]
    assert seen == made[::-1]
    odd = client.get("/jobs", params={"metadata[n]": "1"}).json()["data"]
    assert [job["id"] for job in odd] == [made[3], made[1]]
    assert [job["id"] for job in client.get("/jobs", params={"name": "n2"}).json()["data"]] == [made[2]]
    assert client.get("/jobs", params={"status": "running"}).json()["data"] == []
    assert client.get("/jobs", params={"created_after": 2**40}).json()["data"] == []


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ({"after": "job_1"}, "unknown_cursor", "after"),
        ({"after": "ds_01m85yz76hf89sn6smzdaaew5t"}, "unknown_cursor", "after"),
        ({"after": "job_01m85yz76hf89sn6smzdaaew5t\n"}, "unknown_cursor", "after"),
        ({"limit": 0}, "out_of_range", "limit"),
        ({"limit": 101}, "out_of_range", "limit"),
        ({"limit": "many"}, "wrong_type", "limit"),
        ({"limit": "9" * 5000}, "out_of_range", "limit"),
        ({"status": "sleeping"}, "invalid_filter", "status"),
        ({"created_after": -1}, "out_of_range", "created_after"),
        ({"stat": "queued"}, "invalid_filter", "stat"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(
    client: httpx.Client, query: dict[str, str | int], code: str, param: str
) -> None:
    body = problem(client.get("/jobs", params=query), status=422, code=code)
    assert body["error"]["param"] == param


def test_a_queued_job_is_cancelled_at_once_and_asking_again_changes_nothing(client: httpx.Client) -> None:
    job = registry.job(client)
    for _ in range(2):
        answer = client.post(f"/jobs/{job}/cancel")
        assert answer.status_code == 202
        assert answer.json()["status"] == "cancelled"
    events = client.get(f"/jobs/{job}/events").json()["data"]
    assert [(event["seq"], event["data"]["status"]) for event in events] == [(1, "queued"), (2, "cancelled")]


def test_a_running_job_is_cancelling_until_its_worker_has_stopped(client: httpx.Client, live: Live) -> None:
    job = registry.job(client)
    held = registry.claimed(live.runtime, job)
    shown = client.post(f"/jobs/{job}/cancel").json()
    assert (shown["status"], shown["phase"]) == ("running", "cancelling")
    jobs.release(held, to=Status.CANCELLED, database=live.runtime.database)
    assert client.get(f"/jobs/{job}").json()["status"] == "cancelled"


def test_a_job_shows_its_progress_its_metrics_and_its_adapter(client: httpx.Client, live: Live, tmp_path: Path) -> None:
    job = registry.job(client, name="shown")
    held, database = registry.claimed(live.runtime, job), live.runtime.database
    jobs.enter(held, Phase.TRAINING, database=database, lease_s=60)
    for step in (10, 20):
        jobs.record(
            held,
            Progress(
                step=step,
                total_steps=20,
                epoch=step / 20,
                loss=2.0 / step,
                learning_rate=1e-4,
                grad_norm=0.5,
                tokens_per_second=100.0,
                trained_tokens=step * 8,
                eta_seconds=20.0 - step,
            ),
            database=database,
            lease_s=60,
        )
    jobs.record(held, Evaluated(step=20, epoch=1.0, eval_loss=0.7), database=database, lease_s=60)
    shown = client.get(f"/jobs/{job}").json()
    assert (shown["status"], shown["phase"], shown["attempt"]) == ("running", "training", 1)
    assert (shown["progress"]["step"], shown["progress"]["total_steps"], shown["progress"]["loss"]) == (20, 20, 0.1)
    rows = client.get(f"/jobs/{job}/metrics").json()["data"]
    assert [(row["step"], row["loss"], row["eval_loss"]) for row in rows] == [
        (10, 0.2, None),
        (20, 0.1, None),
        (20, None, 0.7),
    ]
    jobs.fail(
        held,
        Failure(code="user_error", message="Row 3 is too long.", failure_class=FailureClass.USER_ERROR),
        database=database,
    )
    failed = client.get(f"/jobs/{job}").json()
    assert failed["status"] == "failed"
    assert failed["failure"]["message"] == "Row 3 is too long."
    problem(client.post(f"/jobs/{job}/cancel"), status=409, code="job_already_finished")

    adapter = registry.adapter(live.runtime, client, tmp_path, name="done")
    done = client.get(f"/jobs/{adapter.job_id}").json()
    assert done["status"] == "succeeded"
    assert done["adapter"] == {"id": adapter.id, "name": "done", "version": 1, "sha256": adapter.sha256}


def test_events_page_upwards_by_number(client: httpx.Client) -> None:
    job = registry.job(client)
    client.post(f"/jobs/{job}/cancel")
    first = client.get(f"/jobs/{job}/events", params={"limit": 1}).json()
    assert first["has_more"]
    rest = client.get(f"/jobs/{job}/events", params={"after": first["data"][0]["seq"]}).json()
    assert [event["seq"] for event in rest["data"]] == [2]
    assert rest["data"][0]["id"] == "ev_000002"
    assert not rest["has_more"]


@pytest.mark.parametrize("job", ["job_1", "nothing", "job_01m85yz76hf89sn6smzdaaew5t", "%00", "..%2F..%2Fetc"])
def test_a_job_that_is_not_there_is_not_found(client: httpx.Client, job: str) -> None:
    answer = client.get(f"/jobs/{job}")
    assert answer.status_code in {400, 404}
    problem(answer, status=answer.status_code, code=answer.json()["code"])
