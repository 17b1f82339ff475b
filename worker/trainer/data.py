"""From files of conversations to rows of tensors: verified, read, prepared by core/text, laid out.

Knows no model. What comes out depends on the files, the base's chat format and the spec alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.domain import formats
from core.domain.datasets import Conversation
from core.domain.training import TrainSpec
from core.storage import files
from core.text.chat import Renderer
from core.text.prepared import prepare
from worker.trainer import rows as flat
from worker.trainer.failures import Damaged
from worker.trainer.rows import Row
from worker.trainer.wishes import Wishes


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of conversations, and the hash it must have."""

    path: Path
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What is trained on. `rows` are what the sampler draws: samples, or packed rows of several.

    `samples`, `dropped` and `truncated` count conversations of the training side.
    """

    rows: tuple[Row, ...]
    validation: tuple[Row, ...]
    samples: int
    dropped: int
    truncated: int


def load(train: Source, validation: Source | None, *, spec: TrainSpec, renderer: Renderer, wishes: Wishes) -> Loaded:
    """Read and render everything; a stop asked meanwhile leaves at the next row.

    Raises:
        Damaged: A file's bytes are not what its hash says.
        Problem: A row can't be rendered or is too long, or none is left; see core/text/prepared.py.
        StopAsked: Cancel or pause.
    """
    held_out = None if validation is None else _conversations(validation)
    prepared = prepare(_conversations(train), held_out, spec=spec, renderer=renderer, check=wishes.check)
    checked = () if prepared.validation is None else prepared.validation.examples
    return Loaded(
        rows=tuple(flat.row(row.input_ids_T, row.labels_T, starts=row.starts_S) for row in prepared.rows()),
        validation=tuple(flat.row(one.input_ids, one.labels) for one in checked),
        samples=len(prepared.train.examples),
        dropped=len(prepared.train.dropped_lines),
        truncated=len(prepared.train.truncated_lines),
    )


def _conversations(source: Source) -> Sequence[Conversation]:
    if files.sha256_of(source.path) != source.sha256:
        raise Damaged("dataset_changed", "The data set's bytes on this worker are not those that were uploaded.")
    return tuple(formats.parse_file(source.path))
