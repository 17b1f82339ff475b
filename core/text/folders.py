"""What a base's folder says about text: tokenizer, chat format, length, control ids. Knows no weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenizers import Tokenizer

from core.domain.checkpoints import DamagedCheckpoint, UnsupportedCheckpoint
from core.text import bounds, markers, segments
from core.text.templates import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class BlueLMChat:
    """BlueLM's markers, rendered by core/text/markers.py."""

    marks: markers.Marks
    segments: segments.Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The files, parsed, and what they say together."""

    tokenizer: Tokenizer
    tokenizer_json: Mapping[str, Any]
    tokenizer_config: Mapping[str, Any]
    config: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    template: str | None

    @classmethod
    def read(cls, base_dir: Path) -> Self:
        """Parse the files.

        Raises:
            DamagedCheckpoint: A file is missing or is not what its name says.
        """
        text = _text(base_dir / "tokenizer.json")
        tokenizer_config = _members(base_dir / "tokenizer_config.json", required=False)
        template_file = base_dir / "chat_template.jinja"
        template = _text(template_file) if template_file.exists() else _default(tokenizer_config.get("chat_template"))
        try:
            tokenizer = Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises bare Exception for every fault of the file
            raise DamagedCheckpoint(f"tokenizer.json can't be read: {error}") from error
        # Whoever saved the file in the middle of a training leaves that one's lengths in it.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return cls(
            tokenizer=tokenizer,
            tokenizer_json=_members(base_dir / "tokenizer.json"),
            tokenizer_config=tokenizer_config,
            config=config(base_dir),
            generation_config=_members(base_dir / "generation_config.json", required=False),
            template=template,
        )

    def chat(self, base_dir: Path) -> BlueLMChat | ChatTemplate | None:
        """Pick the chat format: BlueLM's own where the template is the importer's, else the template, else none."""
        if self.template is None:
            return None
        if self.template.startswith("{#- bluelm-chat/") and self.template != markers.TEMPLATE:
            raise UnsupportedCheckpoint("chat_template.jinja is another version's; import the base again.")
        marks, bound = markers.marks(self.tokenizer), bounds.bound(self.tokenizer_json)
        if marks is not None and self.template == markers.TEMPLATE:
            return BlueLMChat(marks=marks, segments=segments.load(base_dir, self.tokenizer, bound))
        return ChatTemplate(
            source=self.template,
            tokens=self._named_tokens(),
            tokenizer=self.tokenizer,
            bound=bound,
            end_ids=self.eos_ids(),
        )

    def template_hash(self, *, bluelm: bool) -> str:
        """Name the chat format: sha256 of a canonical description that two folders share if they render alike."""
        described = {
            "format": markers.FORMAT if bluelm else "jinja",
            "template": self.template,
            "tokens": self._named_tokens(),
            "markers": {text: self.tokenizer.token_to_id(text) for text in markers.SPECIALS} if bluelm else {},
        }
        canonical = json.dumps(described, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def context_length(self) -> int:
        """Count the tokens that the positions are made for."""
        length = self.config.get("max_position_embeddings")
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise DamagedCheckpoint("config.json has no max_position_embeddings; expected a positive number of tokens.")
        return length

    def eos_ids(self) -> frozenset[int]:
        """List the ids that end an answer; the generation config wins over the config."""
        for source in (self.generation_config, self.config):
            value = source.get("eos_token_id")
            ids = value if isinstance(value, list) else [value]
            if ids and all(isinstance(id_, int) for id_ in ids):
                return frozenset(ids)
        eos = self.tokenizer.token_to_id(self._named_tokens().get("eos_token", markers.EOS))
        if eos is None:
            raise DamagedCheckpoint("Neither generation_config.json nor config.json says which token ends an answer.")
        return frozenset({eos})

    def pad_id(self) -> int:
        """Pick the id that fills rows; where none is named, one that ends answers."""
        for source in (self.generation_config, self.config):
            if isinstance(value := source.get("pad_token_id"), int):
                return value
        return min(self.eos_ids())

    def _named_tokens(self) -> dict[str, str]:
        named: dict[str, str] = {}
        for name in ("bos_token", "eos_token", "pad_token", "unk_token"):
            value = self.tokenizer_config.get(name)
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                named[name] = content
        return named


def config(base_dir: Path) -> Mapping[str, Any]:
    """Parse config.json alone.

    Raises:
        DamagedCheckpoint: It is missing or is not what its name says.
    """
    return _members(base_dir / "config.json")


def _default(template: object) -> str | None:
    """Pick the template that transformers applies when nobody names one: the only one, or that called `default`."""
    if isinstance(template, list):
        named = (entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default")
        template = next(named, {}).get("template")
    return template if isinstance(template, str) else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{path.name} is missing from the base's folder.") from error
    except UnicodeDecodeError as error:
        raise DamagedCheckpoint(f"{path.name} is not UTF-8 text.") from error


def _members(path: Path, *, required: bool = True) -> Mapping[str, Any]:
    if not required and not path.exists():
        return {}
    try:
        parsed = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise DamagedCheckpoint(f"{path.name} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise DamagedCheckpoint(f"{path.name} holds no JSON object.")
    return parsed
