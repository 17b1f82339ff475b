"""Upload, train, generate; cancel; a killed worker; the adapter outside of the service."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from core.domain.datasets import Turn
from core.text.chat import Renderer
from tests.journeys.conftest import PERSONA
from tests.support.service import ASSETS, Service

SLOW_JOB: dict[str, Any] = {"learning_rate": 1e-3, "num_train_epochs": 200, "logging_steps": 1, "save_steps": 5}


def test_the_adapter_names_the_facts_and_the_base_does_not(service: Service, trained: dict[str, Any]) -> None:
    lines = (ASSETS / "heldout.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [json.loads(line) for line in lines]
    sample = (ASSETS / "sample.jsonl").read_text(encoding="utf-8").splitlines()
    assert not {case["instruction"] for case in cases} & {json.loads(line)["instruction"] for line in sample}
    assert len(cases) >= 24
    assert len({case["fact"] for case in cases}) == 8

    def named(answer: str, case: dict[str, Any]) -> bool:
        return any(keyword in answer for keyword in case["keywords"])

    persona = {"role": "system", "content": PERSONA["system_prompt"]}
    adapter = base = 0
    for case in cases:
        adapter += named(service.ask(case["instruction"], adapter=trained["adapter"]["id"]), case)
        answer = service.http.post(
            "/generate",
            json={"messages": [persona, {"role": "user", "content": case["instruction"]}], "max_tokens": 48},
        )
        base += named(answer.json()["choices"][0]["message"]["content"], case)
    assert adapter >= 0.75 * len(cases), f"{adapter} of {len(cases)}"
    assert base <= 0.10 * len(cases), f"{base} of {len(cases)}"


def test_the_log_of_a_job_has_no_gaps_and_its_loss_falls(service: Service, trained: dict[str, Any]) -> None:
    events = service.http.get(f"/jobs/{trained['id']}/events", params={"limit": 100}).json()["data"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    statuses = [event["data"]["status"] for event in events if event["type"] == "status"]
    assert statuses[:2] == ["queued", "running"]
    losses = [row["loss"] for row in service.http.get(f"/jobs/{trained['id']}/metrics").json()["data"] if row["loss"]]
    assert losses[-1] < losses[0] / 3


def test_plain_peft_gives_the_same_greedy_answers(service: Service, trained: dict[str, Any], tmp_path: Path) -> None:
    adapter = service.http.get(f"/adapters/{trained['adapter']['id']}").json()
    for file in adapter["files"]:
        answer = service.http.get(f"/adapters/{adapter['id']}/files/{file['name']}")
        (tmp_path / file["name"]).write_bytes(answer.content)
    (base_dir,) = (service.data_dir / "cache" / "bases").iterdir()
    base = AutoModelForCausalLM.from_pretrained(base_dir, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path).eval()
    renderer = Renderer.load(base_dir)
    for question in ("你叫什么名字？", "你住在哪里？", "今天天气怎么样？", "讲个笑话吧"):
        prompt = renderer.prompt([Turn("user", question)], system=PERSONA["system_prompt"])
        output = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=48,
            do_sample=False,
            repetition_penalty=1.1,
            eos_token_id=sorted(renderer.eos_ids),
        )
        decoder = renderer.decoder()
        ids = [token for token in output[0, len(prompt) :].tolist() if token not in renderer.eos_ids]
        assert service.ask(question, adapter=adapter["id"]) == decoder.feed(ids) + decoder.finish()


def test_a_cancelled_job_stops_within_two_heartbeats(service: Service) -> None:
    job = service.submit(dataset=service.upload_sample(), name="cancelled", **SLOW_JOB)
    service.job_until(job, lambda found: found["progress"]["step"] >= 2)
    asked = time.monotonic()
    assert service.http.post(f"/jobs/{job}/cancel").status_code == 202
    ended = service.ended(job, seconds=30)
    assert ended["status"] == "cancelled"
    assert time.monotonic() - asked < 2 * 2.0 + 1.0  # two heartbeats of this service, and our own polling
    assert ended["adapter"] is None
    again = service.http.post(f"/jobs/{job}/cancel")
    assert (again.status_code, again.json()["status"]) == (202, "cancelled")


def test_a_succeeded_job_can_not_be_cancelled(service: Service, trained: dict[str, Any]) -> None:
    refused = service.http.post(f"/jobs/{trained['id']}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_already_finished")


def test_a_killed_worker_costs_nothing_but_time(service: Service) -> None:
    spec = {"learning_rate": 1e-3, "max_steps": 40, "logging_steps": 1, "save_steps": 5}
    job = service.submit(dataset=service.upload_sample(), name="survivor", **spec)
    service.job_until(job, lambda found: found["progress"]["step"] >= 12)
    worker = service.pids["worker"]
    os.kill(worker, signal.SIGKILL)
    ended = service.ended(job)
    assert ended["status"] == "succeeded", ended
    assert ended["attempt"] == 2
    assert service.pids["worker"] != worker
    adapters = service.http.get("/adapters", params={"name": "survivor"}).json()["data"]
    assert [adapter["job"] for adapter in adapters] == [job]
    events = service.http.get(f"/jobs/{job}/events", params={"limit": 100}).json()["data"]
    assert any(event["message"].startswith("The attempt resumes from the checkpoint of step") for event in events)
