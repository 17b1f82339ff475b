"""One renderer of conversations for plans, training and serving, so that none can drift from the others.

Knows the folder of a base (its tokenizer, config and template); knows no torch, no data-set files, no HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from core.domain.checkpoints import NoChatFormat
from core.domain.datasets import Conversation, Turn
from core.domain.generation import InvalidMessages, Message
from core.domain.plans import Piece
from core.text import markers
from core.text.decoders import Alphabet, Decoder, alphabet
from core.text.dialogues import arrange
from core.text.examples import IGNORED, Example
from core.text.folders import BlueLMChat, Folder
from core.text.templates import ChatTemplate


@dataclass(frozen=True, slots=True, kw_only=True)
class Renderer:
    """The chat format of one base.

    `base_layout` is "bluelm" where BlueLM's own format applies and "llama" where the folder's template does.
    `template_hash` (sha256, hex) is the same wherever the same folder is loaded; adapters carry it.
    `context_length` counts tokens, prompt and answer together; `eos_ids` end an answer; `pad_id` fills rows.
    """

    base_layout: Literal["bluelm", "llama"]
    template_hash: str
    context_length: int
    eos_ids: frozenset[int]
    pad_id: int
    _chat: BlueLMChat | ChatTemplate | None
    _alphabet: Alphabet

    @classmethod
    def load(cls, base_dir: Path) -> Self:
        """Read a base's config, tokenizer and template.

        Raises:
            DamagedCheckpoint: A file is missing or is not what its name says.
            UnsupportedCheckpoint: The tokenizer decodes in a way not known here.
        """
        folder = Folder.read(base_dir)
        chat = folder.chat(base_dir)
        bluelm = isinstance(chat, BlueLMChat)
        return cls(
            base_layout="bluelm" if bluelm else "llama",
            template_hash=folder.template_hash(bluelm=bluelm),
            context_length=folder.context_length(),
            eos_ids=folder.eos_ids(),
            pad_id=folder.pad_id(),
            _chat=chat,
            _alphabet=alphabet(folder.tokenizer, folder.tokenizer_json.get("decoder")),
        )

    @property
    def can_chat(self) -> bool:
        """Whether this base has a chat format at all; BlueLM-7B-Base has none."""
        return self._chat is not None

    def prompt(self, messages: Sequence[Turn | Message], *, system: str | None = None) -> list[int]:
        """Write a conversation, ready for the next answer, as ids, `<s>` included.

        Args:
            messages: At most one system turn, then user and assistant alternating, the user last.
            system: The system text where `messages` has no system turn of its own; an empty one means none.

        Raises:
            InvalidMessages: The roles are out of order or the last user turn is empty.
            NoChatFormat: The base has no chat format.
        """
        dialogue = arrange(messages, system=system, ends_with="user")
        chat = self._required_chat()
        if isinstance(chat, ChatTemplate):
            return chat.prompt(dialogue)
        return markers.render(dialogue, marks=chat.marks, segments=chat.segments)[0]

    def fewest(self, messages: Sequence[Turn | Message], *, system: str | None = None) -> int:
        """Give a number of ids that `prompt` makes at least, at a thousandth of the cost; raises as it does.

        It is 0 where no more can be told, and where there are too few characters to be worth it.
        """
        if sum(len(message.content) for message in messages) + len(system or "") < self.context_length:
            return 0
        dialogue = arrange(messages, system=system, ends_with="user")
        chat = self._required_chat()
        if isinstance(chat, ChatTemplate):
            return chat.fewest(dialogue)
        return markers.fewest(dialogue, segments=chat.segments)

    def example(self, conversation: Conversation, *, system: str | None = None) -> Example:
        """Write a finished conversation as ids and labels (answers and their `</s>`, where the weight is above 0).

        Raises:
            InvalidMessages: As in `prompt`, or no answer is to be learnt; names the line.
            NoChatFormat: The base has no chat format.
        """
        try:
            ids, labels = self._learnable(conversation, system=system)
        except InvalidMessages as error:
            raise InvalidMessages(
                f"Line {conversation.line}: {error.detail}", param=error.param, findings=error.findings
            ) from error
        return Example(input_ids=ids, labels=labels, line=conversation.line)

    def decoder(self) -> Decoder:
        """Make a decoder for one answer."""
        return Decoder(self._alphabet)

    def decode(self, ids: Sequence[int]) -> str:
        """Decode a whole answer; control tokens are nothing."""
        decoder = self.decoder()
        return decoder.feed(ids) + decoder.finish()

    def pieces(self, example: Example, *, at_most: int) -> tuple[Piece, ...]:
        """Show an example token by token, those that are learnt marked; its first `at_most` of them."""
        shown = []
        for id_, label in zip(example.input_ids[:at_most], example.labels, strict=False):
            text, raw = self._alphabet.piece(id_)
            shown.append(
                Piece(
                    id=id_,
                    text=text,
                    bytes=raw.hex() if text is None else None,
                    trained=label != IGNORED,
                    control=id_ in self._alphabet.controls,
                )
            )
        return tuple(shown)

    def _learnable(self, conversation: Conversation, *, system: str | None) -> tuple[list[int], list[int]]:
        dialogue = arrange(conversation.turns, system=system, ends_with="assistant")
        chat = self._required_chat()
        if isinstance(chat, ChatTemplate):
            ids, labels = chat.render(dialogue)
        else:
            ids, labels = markers.render(dialogue, marks=chat.marks, segments=chat.segments)
        if all(label == IGNORED for label in labels):
            raise InvalidMessages("Every answer has weight 0, so there is nothing to learn.")
        return ids, labels

    def _required_chat(self) -> BlueLMChat | ChatTemplate:
        if self._chat is None:
            raise NoChatFormat("This base has no chat format: no role markers and no chat template. Use a chat model.")
        return self._chat
