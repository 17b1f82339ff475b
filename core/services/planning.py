"""The process that outlines a training: a request and the data sets' bytes in, one JSON line out.

`python -m core.services.planning PARENT_PID MEMORY_BYTES CPU_SECONDS FILE_BYTES`. The first line of stdin is a Request, the rest the
data set; a validation set comes on a descriptor of its own. It holds no credentials and opens the base's text files
alone. It stops reading once it has seen enough.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from core.domain import formats, memory
from core.domain.plans import Outline
from core.domain.training import TrainSpec
from core.errors import Finding, Problem
from core.services import confinement
from core.text import folders, outlines, shares
from core.text.chat import Renderer
from core.text.prepared import prepare
from core.text.shares import Read, Size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What shall be outlined. `sizes` are what validation counted, of the data set and of the validation set.

    `validation_fd` is the descriptor that the latter comes on.
    """

    spec: TrainSpec
    base_dir: str
    parameters: int
    size: Size
    validation_size: Size | None
    validation_fd: int | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why there is no outline: a Problem, spelt out."""

    code: str
    detail: str
    param: str | None
    findings: tuple[Finding, ...]


REQUEST: Final = TypeAdapter(Request)
REPORT: Final = TypeAdapter(Outline | Refusal)


def main() -> None:
    """Outline what stdin asks for."""
    confinement.enter()
    try:
        report: Outline | Refusal = _outline(REQUEST.validate_json(confinement.first_line()))
    except Problem as problem:
        report = Refusal(code=problem.code, detail=problem.detail, param=problem.param, findings=problem.findings)
    except (MemoryError, RecursionError):
        report = Refusal(
            code="too_complex", detail="Planning takes more memory than it may.", param="dataset", findings=()
        )
    # Whoever still writes to us shall see that nobody reads on, rather than wait for us while we wait for it.
    os.closerange(0, 1)
    confinement.report(json.dumps(REPORT.dump_python(report, mode="json")))


def _outline(request: Request) -> Outline:
    spec, base_dir = request.spec, Path(request.base_dir)
    renderer = Renderer.load(base_dir)
    base = memory.dimensions(folders.config(base_dir), parameters=request.parameters)
    part = shares.read(formats.parse(confinement.chunks(0)))
    checked = _read_validation(request)
    prepared = prepare(
        part.conversations, None if checked is None else checked.conversations, spec=spec, renderer=renderer
    )
    validation_share = shares.WHOLE
    if prepared.validation is not None:
        source, size = (checked, request.validation_size) if checked else (part, request.size)
        validation_share = shares.share(source, size or source.size, prepared.validation.examples)
    return outlines.outline(
        prepared,
        spec,
        renderer=renderer,
        base=base,
        share=shares.share(part, request.size, prepared.train.examples),
        validation_share=validation_share,
    )


def _read_validation(request: Request) -> Read | None:
    if request.validation_fd is None:
        return None
    # The data set may not have been read to its end: whoever feeds us goes on to the next file once this one is shut.
    os.close(0)
    try:
        return shares.read(formats.parse(confinement.chunks(request.validation_fd)))
    finally:
        os.close(request.validation_fd)


if __name__ == "__main__":
    main()
