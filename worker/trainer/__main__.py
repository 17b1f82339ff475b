"""The trainer process: reads requests, runs attempts one after another on the base it holds, writes replies.

Requests and replies are lines of worker/messages on their own descriptors; stdout and stderr belong to the log.
"""

import faulthandler
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import torch
from pydantic import ValidationError
from transformers.utils.logging import disable_progress_bar

from core.domain.jobs import FailureClass, Phase
from core.domain.training import TrainingEvent
from worker.messages import MAX_LINE_BYTES, Entered, Failed, Line, Ready, Run, Stepped, Stop, Told, line, requests
from worker.trainer.attempt import HeldBase, run_attempt
from worker.trainer.failures import classify
from worker.trainer.wishes import Wishes

log = logging.getLogger(__name__)

BAD_REQUEST: Final = 65
WORN_OUT: Final = 70
"""Exit after a failure that may have left the device or its memory in disorder; the worker starts a fresh child."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A run, and the place where wishes about it will appear."""

    run: Run
    wishes: Wishes


class Pipe:
    """Both ends: a thread takes requests, since a Stop must be heard during a run; replies go out at once."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._runs: queue.SimpleQueue[Asked | None] = queue.SimpleQueue()
        self._newest: Wishes | None = None
        self._is_busy = False

    def listen(self) -> None:
        """Start to take requests."""
        threading.Thread(target=self._listen, name="requests", daemon=True).start()

    def send(self, reply: Line) -> None:
        """Write one reply."""
        self._outgoing.write(line(reply))
        self._outgoing.flush()

    def tell(self, event: TrainingEvent | Phase | Entered | Stepped) -> None:
        """Write one event."""
        match event:
            case Phase():
                self.send(Entered(phase=event))
            case Entered() | Stepped():
                self.send(event)
            case _:
                self.send(Told(event=event))

    def runs(self) -> Iterator[Asked]:
        """Wait for runs until the worker closes its end."""
        while asked := self._runs.get():
            self._is_busy = True
            yield asked
            self._is_busy = False

    def _listen(self) -> None:
        while text := self._incoming.readline(MAX_LINE_BYTES + 1):
            try:
                request = requests.validate_json(text)
            except ValidationError as error:
                # Not answered: a worker whose lines can't be read is no longer to be trusted with this child.
                log.error("a line that is no request: %d faults", error.error_count())  # noqa: TRY400  (it echoes input)
                os._exit(BAD_REQUEST)
            self._take(request)
        if self._is_busy:
            # Nobody is left to hear the result; what was published stays, the rest is scratch.
            os._exit(0)
        self._runs.put(None)

    def _take(self, request: Run | Stop) -> None:
        if isinstance(request, Run):
            # Wishes are made here and not when the run begins, so that a Stop right behind its Run is not lost.
            self._newest = Wishes()
            self._runs.put(Asked(request, self._newest))
        elif self._newest:
            self._newest.ask(request.wish)


def serve(pipe: Pipe) -> int:
    """Run attempts until the worker closes its end, or until one may have left this process in disorder.

    Returns:
        The exit status.
    """
    held = HeldBase()
    for asked in pipe.runs():
        name = f"{asked.run.job_id}, attempt {asked.run.attempt}"
        log.info("%s begins", name)
        try:
            result = run_attempt(asked.run, held=held, wishes=asked.wishes, tell=pipe.tell)
            log.info("%s: %s at step %d", name, result.type, result.step)
            pipe.send(result)
        except BrokenPipeError:
            return 0
        except Exception as error:
            failure = classify(error)
            log.exception("%s: %s", name, failure.code)
            pipe.send(Failed(failure=failure))
            if failure.failure_class in {FailureClass.OOM, FailureClass.INFRA}:
                return WORN_OUT
        held.tidy()
    return 0


def main() -> int:
    """Speak over the descriptors that the worker named in the environment."""
    faulthandler.enable(all_threads=True)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    disable_progress_bar()
    incoming = os.fdopen(int(os.environ["BLUELORA_REQUESTS_FD"]), "rb")
    outgoing = os.fdopen(int(os.environ["BLUELORA_REPLIES_FD"]), "wb")
    pipe = Pipe(incoming, outgoing)
    pipe.listen()
    has_gpu = torch.cuda.is_available()
    pipe.send(Ready(device="cuda" if has_gpu else "cpu", memory_bytes=memory_bytes(has_gpu=has_gpu)))
    return serve(pipe)


def memory_bytes(*, has_gpu: bool) -> int:
    """Return the memory of the device that trains, in bytes."""
    if has_gpu:
        return int(torch.cuda.get_device_properties(0).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    sys.exit(main())
