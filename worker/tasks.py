"""The one task: a hint that some job may be runnable."""

from core import wake
from worker import app


def look(job_id: str) -> None:  # noqa: ARG001  (which job was hinted at does not matter: the claim decides)
    """Run what can be run."""
    app.shift().work()


app.app.task(name=wake.TASK)(look)
