"""The process that looks at an adapter's weights: a line that says what they must fit, then their bytes, on stdin.

On stdout one JSON line: the verdict. It stops reading as soon as the file is refused.
"""

import dataclasses
import json
from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

from core.domain.adapters import BrokenAdapter
from core.domain.linears import LlamaSizes, linears
from core.domain.loras import LoraConfig
from core.domain.loraweights import Reading, Verdict
from core.errors import Finding
from core.services import confinement


class Asked(BaseModel):
    """What the weights must fit: the first line of what is sent, then their bytes."""

    model_config = ConfigDict(frozen=True)

    config: LoraConfig
    base: LlamaSizes


def main() -> None:
    """Inspect stdin."""
    confinement.enter()
    try:
        asked = Asked.model_validate_json(confinement.first_line())
        fault = _look(asked, confinement.stdin())
    except (MemoryError, RecursionError):
        fault = Finding(code="too_complex", message="Reading the weights takes more memory than an adapter may.")
    confinement.report(json.dumps(dataclasses.asdict(Verdict(fault))))


def _look(asked: Asked, pieces: Iterator[bytes]) -> Finding | None:
    reading = Reading(asked.config, linears(asked.base))
    try:
        for piece in pieces:
            reading.feed(piece)
        reading.finish()
        reading.check_effect()
    except BrokenAdapter as error:
        return error.findings[0]
    return None


if __name__ == "__main__":
    main()
