"""One service for all journeys that leave it standing."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cli.demo import SPEC
from tests.support.service import ASSETS, Service, running

PERSONA: dict[str, Any] = json.loads((ASSETS / "persona.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on bluelm-nano, with short leases so that takeovers are seen within seconds."""
    fast = {"BLUELORA_LEASE_S": "6", "BLUELORA_HEARTBEAT_S": "2", "BLUELORA_SWEEP_S": "1"}
    with running(tmp_path_factory.mktemp("service") / "data", environment=fast) as served:
        yield served


@pytest.fixture(scope="session")
def trained(service: Service) -> dict[str, Any]:
    """A job that has taught the persona, by the demo's recipe."""
    job = service.submit(
        dataset=service.upload_sample(), name="persona", system_prompt=PERSONA["system_prompt"], **SPEC
    )
    ended = service.ended(job)
    assert ended["status"] == "succeeded", ended
    return ended
