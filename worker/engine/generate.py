"""The decode loop: every active request gains one token a pass, in one batch, whatever its adapter.

One thread owns the model and runs `Generation.run`; others submit requests and adapters, and are told through
callables and futures. Knows no HTTP.
"""

import logging
import threading
from collections import deque
from concurrent.futures import Future
from typing import Final, Literal

import torch
from transformers import DynamicCache

from core.domain.generation import LogitsNotFinite, QueueFull
from core.errors import Problem
from worker.engine.batches import Batch
from worker.engine.models import AdaptedModel
from worker.engine.requests import Active, AnswerBroken, Broken, Load, Request, Token
from worker.engine.sampling import Draw, choose
from worker.engine.shelves import Shelf

log = logging.getLogger(__name__)

PREFILL_TOKENS: Final = 512
"""Prompts are read between passes until they have this many tokens, so that long ones don't stall answers for long."""
RETRY_S: Final = 0.05


class Generation:
    """The loop and its two queues.

    Args:
        model: Used by `run` only.
        shelf: Says which adapters are loaded.
        eos_ids: Tokens that end an answer.
        max_sequences: Rows of the batch.
        max_queue: Requests that may wait for a row.
    """

    def __init__(
        self, model: AdaptedModel, shelf: Shelf, *, eos_ids: frozenset[int], max_sequences: int, max_queue: int
    ) -> None:
        self._model = model
        self._shelf = shelf
        self._eos_ids = eos_ids
        self._max_sequences = max_sequences
        self._max_queue = max_queue
        self._news = threading.Condition()
        self._waiting: deque[Request] = deque()
        self._loads: deque[Load] = deque()
        self._is_stopping = False
        self._has_news = False
        self._batch: Batch[Active] = Batch(model.device)

    def submit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            QueueFull: As many wait already as may.
        """
        with self._news:
            # Those that a free row will take at once are not kept waiting.
            if len(self._waiting) >= self._max_queue + self._max_sequences - len(self._batch.rows):
                raise QueueFull(f"{self._max_queue} requests are waiting already; try again later.", retry_after_s=1.0)
            self._waiting.append(request)
            self._notify()

    def load(self, load: Load) -> None:
        """Queue an adapter; `load.done` gets the outcome. Cancelling that future withdraws it."""
        with self._news:
            self._loads.append(load)
            self._notify()

    def wake(self) -> None:
        """Make the loop look again at what was cancelled or retired."""
        with self._news:
            self._notify()

    def stop(self) -> None:
        """End `run` after the pass under way."""
        with self._news:
            self._is_stopping = True
            self._notify()

    def run(self) -> None:
        """Serve until stopped. What ends this otherwise is a fault that no later request would survive."""
        while self._wait():
            self._tidy()
            self._place_adapters()
            self._admit()
            if self._batch.rows:
                self._pass()

    def _wait(self) -> bool:
        with self._news:
            if not (self._batch.rows or self._waiting or self._has_news):
                # A load that waits for a held adapter is tried again although nothing happens.
                self._news.wait(RETRY_S if self._loads else None)
            self._has_news = False
            return not self._is_stopping

    def _notify(self) -> None:
        self._has_news = True
        self._news.notify()

    def _tidy(self) -> None:
        """Let go of requests whose callers left, and of adapters that nobody needs."""
        with self._news:
            left = [request for request in self._waiting if request.is_cancelled]
            for request in left:
                self._waiting.remove(request)
        # Read once: a caller may leave at any moment, and each request must end exactly once.
        is_left = [row.request.is_cancelled for row in self._batch.rows]
        left += [row.request for row, gone in zip(self._batch.rows, is_left, strict=True) if gone]
        self._batch.keep([place for place, gone in enumerate(is_left) if not gone])
        for request in left:
            self._end(request)
        for slot in self._shelf.take_unused():
            self._model.remove(slot.key)

    def _place_adapters(self) -> None:
        while self._loads:
            load = self._loads[0]
            if not load.done.cancelled() and not self._place(load):
                return
            with self._news:
                self._loads.popleft()

    def _place(self, load: Load) -> bool:
        """Load one adapter, or say that it has to wait for one in use."""
        try:
            self._shelf.check_free(load.name)
            if not self._shelf.retire_for_room():
                return False
            for slot in self._shelf.take_unused():
                self._model.remove(slot.key)
            slot = self._shelf.new(load.name, load.path)
            self._model.put(slot.key, load.weights)
            self._shelf.add(slot)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001  (whoever asked for the load is told; the others go on)
            _settle(load.done, error)
        else:
            _settle(load.done, None)
        return True

    def _admit(self) -> None:
        """Read prompts of waiting requests, each alone, and let them join the batch."""
        read = 0
        while len(self._batch.rows) < self._max_sequences and read < PREFILL_TOKENS:
            with self._news:
                if not self._waiting:
                    return
                request = self._waiting.popleft()
            read += len(request.asked.prompt)
            try:
                self._prefill(request)
            except torch.AcceleratorError:
                raise
            except Exception:
                log.exception("a request failed while its prompt was read")
                self._fail(request, AnswerBroken("The engine could not read the prompt."))

    def _prefill(self, request: Request) -> None:
        """Read one prompt and make the first token."""
        prompt, device = request.asked.prompt, self._model.device
        draw = Draw(request.asked, vocabulary=self._model.vocabulary, device=device)
        cache = DynamicCache()
        logits_1V = self._model.forward(
            torch.tensor([prompt], device=device),
            positions_BT=torch.arange(len(prompt), device=device)[None],
            mask_BL=torch.ones(1, len(prompt), dtype=torch.bool, device=device),
            cache=cache,
            keys=[request.key],
        )
        token = choose(logits_1V, [draw])[0]
        if token is None:
            self._fail(request, _not_finite(request))
        elif not self._deliver(request, token, made=1):
            self._join(Active(request=request, draw=draw, last=token), cache)

    def _join(self, row: Active, cache: DynamicCache) -> None:
        try:
            self._batch.join(row, cache)
        except torch.OutOfMemoryError:
            # The layers of the batch may now differ in their rows.
            self._break_batch()
            raise

    def _pass(self) -> None:
        """Give every active request its next token."""
        rows = self._batch.rows
        try:
            logits_BV = self._model.forward(
                torch.tensor([[row.last] for row in rows], device=self._model.device),
                positions_BT=self._batch.positions(),
                mask_BL=self._batch.mask(),
                cache=self._batch.cache,
                keys=[row.request.key for row in rows],
            )
            tokens = choose(logits_BV, [row.draw for row in rows])
        except torch.AcceleratorError:
            raise
        except Exception:
            log.exception("a pass over %d requests failed", len(rows))
            self._break_batch()
            return
        self._batch.advance()
        self._batch.keep([place for place, row in enumerate(rows) if not self._take(row, tokens[place])])

    def _break_batch(self) -> None:
        rows = self._batch.rows
        self._batch.keep([])
        for row in rows:
            self._fail(row.request, AnswerBroken("The engine failed while it made this answer."))

    def _take(self, row: Active, token: int | None) -> bool:
        """Hand a row its token; whether that was its last."""
        if token is None:
            self._fail(row.request, _not_finite(row.request))
            return True
        row.last = token
        row.made += 1
        return self._deliver(row.request, token, made=row.made)

    def _deliver(self, request: Request, token: int, *, made: int) -> bool:
        """Tell the caller of a token; whether it was the last."""
        reason: Literal["stop", "length"] | None = None
        if token in self._eos_ids:
            reason = "stop"
        elif made >= request.asked.max_tokens:
            reason = "length"
        if reason is not None:
            self._end(request)
        request.deliver(Token(token, reason))
        return reason is not None

    def _fail(self, request: Request, problem: Problem) -> None:
        self._end(request)
        request.deliver(Broken(problem))

    def _end(self, request: Request) -> None:
        if request.slot is not None:
            self._shelf.release(request.slot)


def _settle(done: "Future[None]", error: Exception | None) -> None:
    """Tell whoever waits for a load, unless they gave up meanwhile."""
    if not done.set_running_or_notify_cancel():
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)


def _not_finite(request: Request) -> LogitsNotFinite:
    return LogitsNotFinite(f"{request.asked.model} gives logits that are not finite, so no token can be chosen.")
