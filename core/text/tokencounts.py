"""Conversations counted in tokens, rendered by the one renderer of training and serving."""

from collections.abc import Iterable

import numpy as np

from core.domain.datasets import Conversation
from core.domain.generation import InvalidMessages
from core.domain.lengths import Tally
from core.domain.tokens import Counted, Lines
from core.text.chat import Renderer
from core.text.examples import IGNORED


def count(conversations: Iterable[Conversation], renderer: Renderer) -> Counted:
    """Count every row.

    Raises:
        NoChatFormat: The base can't write conversations.
        InvalidDataset: The data set is none.
    """
    tally, trained = Tally(), 0
    over_context, unfit = Lines(), Lines()
    for conversation in conversations:
        try:
            row = renderer.example(conversation)
        except InvalidMessages:
            unfit.note(conversation.line)
            continue
        tally.add(np.array([len(row)]))
        trained += len(row) - row.labels.count(IGNORED)
        if len(row) > renderer.context_length:
            over_context.note(conversation.line)
    return Counted(
        context_length=renderer.context_length,
        total=tally.total,
        trained=trained,
        longest_row=tally.longest,
        lengths=tally.lengths("tokens"),
        over_context=over_context,
        unfit=unfit,
    )
