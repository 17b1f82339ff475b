"""A plan of bluelm-nano is what its job then logs, by HTTP alone."""

from typing import Any

import pytest

from tests.support.service import Service

PERSONA = "现在你要扮演旧书店里的一只猫"
CASES: dict[str, dict[str, Any]] = {
    "exact": {"num_train_epochs": 0.5, "validation_ratio": 0.1, "eval_steps": 3, "system_prompt": PERSONA},
    "packed": {"packing": "packed", "pack_length": 256, "max_length": 64, "overlong": "drop", "max_steps": 3},
}


@pytest.mark.parametrize("case", CASES)
def test_a_plan_is_what_the_job_then_logs(service: Service, case: str) -> None:
    spec = {"dataset": service.upload_sample(), "name": f"planned-{case}", "logging_steps": 1} | CASES[case]
    plan = service.http.post("/jobs/plan", json=spec, timeout=60).json()
    job = service.submit(**spec)
    ended = service.ended(job)
    assert ended["status"] == "succeeded", ended
    assert ended["resolved_spec"] == plan["resolved_spec"]
    assert ended["progress"]["step"] == plan["steps"]["total"]
    adapter = ended["adapter"]["id"]
    manifest = service.http.get(f"/adapters/{adapter}/files/manifest.json").json()
    assert manifest["trained_tokens"] == plan["tokens"]["all_steps"]["total"]
    assert manifest["metrics"]["samples"] == plan["rows"]["train"]["rows"]
    sha256 = service.http.get(f"/datasets/{spec['dataset']}").json()["sha256"]
    assert manifest["dataset_sha256"] == sha256
    evaluated = [row for row in service.http.get(f"/jobs/{job}/metrics").json()["data"] if row["eval_loss"]]
    assert len(evaluated) == plan["steps"]["evaluations"]
    again = service.http.post("/jobs/plan", json=spec).json()
    assert again["time"]["measured_attempts"] >= 1
    assert again["time"]["low_seconds"] <= again["time"]["high_seconds"]
    assert again["workers"] == {"alive": 1, "fitting": 1}
