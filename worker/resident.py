"""The worker's one trainer, kept between attempts as long as they share a base. Knows no jobs."""

import signal

from core.errors import Unavailable
from worker import messages
from worker.child import Child, Program


class Resident:
    """The worker's one trainer, kept between attempts as long as they share a base."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._child: Child | None = None
        self._base: str | None = None
        self._device: messages.Ready | None = None

    def warm_up(self) -> messages.Ready:
        """Start a trainer if none runs, and say what device it found.

        Raises:
            ChildGone: It ended at once.
            ChildDeaf: It does not get ready.
            ChildGarbled: It speaks another language.
        """
        if self._child is None or self._device is None or not self._child.alive():
            self.discard()
            child = Child.spawn(self._program)
            self._child, self._base = child, None
            try:
                self._device = child.wait_ready()
            except Unavailable:
                self.discard()
                raise
        return self._device

    def for_base(self, fingerprint: str) -> Child:
        """Give the trainer that holds this base or none; one that holds another base is replaced.

        Raises:
            ChildGone: As `warm_up`.
            ChildDeaf: As `warm_up`.
            ChildGarbled: As `warm_up`.
        """
        if self._child is not None and self._base not in {None, fingerprint}:
            self._child.stop()
            self._child = None
        self.warm_up()
        assert self._child is not None  # noqa: S101  (warm_up gave one)
        self._base = fingerprint
        # It may stay for months, and only a spawn rotates by itself.
        self._child.trim_log()
        return self._child

    def discard(self) -> None:
        """Kill the trainer; the next attempt gets a new one."""
        if self._child is not None:
            self._child.close()
            self._child, self._base = None, None

    @property
    def child(self) -> Child | None:
        """The trainer, if one has been started and not been ended."""
        return self._child

    def strike(self) -> None:
        """Send KILL to the trainer without waiting for it. Any thread may call this."""
        if child := self._child:
            child.signal(signal.SIGKILL)

    def stop(self) -> None:
        """End the trainer in order."""
        if self._child is not None:
            self._child.stop()
            self._child, self._base = None, None
