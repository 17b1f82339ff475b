"""The tokenizer's files of a BlueLM folder, read, converted, checked against SentencePiece, and written.

Knows which files carry added tokens and in what order they take ids; knows no weights but the number of rows.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from core.domain.checkpoints import DamagedCheckpoint
from core.ml import probes
from core.ml.sentencepieces import BASIC, NORMAL, UNUSED, USER_DEFINED, SentencePieces
from core.ml.sources import Source
from core.text import markers, segments

MODEL: Final = "tokenizer.model"
OPTIONAL: Final = ("added_tokens.json", "special_tokens_map.json", "tokenizer_config.json")
PROBES: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A parsed tokenizer: `added` take the ids after the pieces, in order; `dropped` would have ids without a row."""

    files: tuple[str, ...]
    pieces: SentencePieces
    added: tuple[str, ...]
    dropped: tuple[str, ...]

    @property
    def human(self) -> int | None:
        """The id of the user's marker, at which an answer ends too; None on a base without chat."""
        chat = markers.HUMAN in self.added and markers.AI in self.added
        return len(self.pieces) + self.added.index(markers.HUMAN) if chat else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What was written: file names, and notes for who imports."""

    names: tuple[str, ...]
    segment_encoder: str
    notes: tuple[str, ...]


def read(source: Source, *, rows: int) -> Tokens:
    """Parse tokenizer.model and the lists of added tokens.

    Args:
        source: The folder.
        rows: Of the embedding; an id at or beyond it can't be used.

    Raises:
        DamagedCheckpoint: A file is missing or contradicts another.
        UnsupportedCheckpoint: The model is of another kind than BlueLM's.
    """
    pieces = SentencePieces(source.read(MODEL))
    if len(pieces) > rows:
        raise DamagedCheckpoint(
            f"tokenizer.model has {len(pieces)} pieces, the embedding {rows} rows; one is another's."
        )
    files = tuple(name for name in OPTIONAL if source.has(name))
    listed = _listed(source, first=len(pieces), known=pieces) if "added_tokens.json" in files else []
    special = [
        text
        for name in ("special_tokens_map.json", "tokenizer_config.json")
        if name in files
        for text in _additional(source, name)
    ]
    # The release lists two of its four markers here only; transformers gives these the next free ids in order.
    ordered = list(dict.fromkeys([*listed, *(text for text in special if text not in pieces.ids)]))
    room = rows - len(pieces)
    return Tokens(files=(MODEL, *files), pieces=pieces, added=tuple(ordered[:room]), dropped=tuple(ordered[room:]))


def write(folder: Path, tokens: Tokens, *, context: int) -> Written:
    """Write tokenizer.json, tokenizer_config.json and, for a chat model, chat_template.jinja; check the ids.

    Where the converted tokenizer differs from SentencePiece on a probe, SentencePiece stays the encoder of text
    (`segments.model`) and a note says so.
    """
    tokenizer = tokens.pieces.fast(tokens.added)
    notes: list[str] = []
    names = ["tokenizer.json", "tokenizer_config.json"]
    differing = _differing(tokens.pieces, tokenizer)
    if differing is not None:
        (folder / segments.SENTENCEPIECE_FILE).write_bytes(tokens.pieces.serialized)
        names.append(segments.SENTENCEPIECE_FILE)
        notes.append(
            f"The converted tokenizer does not read {differing} as SentencePiece does, so SentencePiece stays the "
            "encoder here; engines that read tokenizer.json alone may differ."
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    _dump(folder / "tokenizer_config.json", _config(tokens, context=context))
    if tokens.human is not None:
        (folder / "chat_template.jinja").write_text(markers.TEMPLATE, encoding="utf-8")
        names.append("chat_template.jinja")
    else:
        notes.append("No role markers among the added tokens: a base model, without a chat format.")
    if tokens.dropped:
        notes.append(f"Added tokens without a row of their own were dropped: {', '.join(tokens.dropped)}.")
    return Written(
        names=tuple(names),
        segment_encoder="tokenizers" if differing is None else "sentencepiece",
        notes=tuple(notes),
    )


def _differing(pieces: SentencePieces, tokenizer: Tokenizer) -> str | None:
    """Say what the converted tokenizer reads otherwise than SentencePiece; None if nothing is known."""
    if obstacles := pieces.obstacles():
        return " and ".join(obstacles)
    unusual = [*pieces.pieces(USER_DEFINED), *pieces.pieces(UNUSED)]
    texts = probes.texts(pieces.pieces(NORMAL), unusual=unusual, count=PROBES)
    difference = pieces.difference(tokenizer, texts)
    return None if difference is None else repr(difference.text[:40])


def _config(tokens: Tokens, *, context: int) -> dict[str, Any]:
    """Name the class that takes tokenizer.json as it is; LlamaTokenizer would rebuild it with other ids."""
    unk, bos, eos, pad = BASIC
    return {
        "additional_special_tokens": list(tokens.added),
        "bos_token": bos,
        "clean_up_tokenization_spaces": False,
        "eos_token": eos,
        "model_max_length": context,
        "pad_token": pad,
        "padding_side": "left",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": unk,
    }


def _listed(source: Source, *, first: int, known: SentencePieces) -> list[str]:
    """Read added_tokens.json, whose ids must follow the pieces without a gap."""
    ids = source.members("added_tokens.json")
    if not all(isinstance(id_, int) for id_ in ids.values()):
        raise DamagedCheckpoint("added_tokens.json maps a token to something that is no id.")
    new = sorted((id_, text) for text, id_ in ids.items() if known.ids.get(text) != id_)
    if [id_ for id_, _ in new] != list(range(first, first + len(new))) or any(text in known.ids for _, text in new):
        raise DamagedCheckpoint(
            f"added_tokens.json gives ids {[id_ for id_, _ in new][:8]}; expected {first} and up without a gap, "
            "after the pieces of tokenizer.model."
        )
    return [text for _, text in new]


def _additional(source: Source, name: str) -> list[str]:
    value = source.members(name).get("additional_special_tokens") or []
    texts = (
        [entry.get("content") if isinstance(entry, dict) else entry for entry in value] if _is_list(value) else [None]
    )
    if not all(isinstance(text, str) and text for text in texts):
        raise DamagedCheckpoint(f"additional_special_tokens in {name} is no list of tokens.")
    return [str(text) for text in texts]


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _dump(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True) + "\n", encoding="utf-8")
