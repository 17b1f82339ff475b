"""What somebody has to clear away now and then; any number of workers may do it at once."""

import logging
from typing import Final

from core.services import attempts, datasets, garbage
from core.services.garbage import Collected
from worker import logfiles, scratch
from worker.inputs import Site

log = logging.getLogger(__name__)

EVERY_S: Final = 3600.0
LOGS_KEPT_S: Final = 14 * 24 * 3600.0


def tidy(site: Site) -> None:
    """Clear away folders of dead attempts, old logs, rows that are kept for a day, and bytes that no row points to.

    Raises:
        Unavailable: Database or store do not answer.
    """
    for name in scratch.sweep(site.scratch, older_than_s=2 * site.lease_s):
        log.info("removed what attempt %s left behind", name)
    logfiles.forget(site.data_dir / "logs", older_than_s=LOGS_KEPT_S)
    attempts.tidy(site.database)
    removed = datasets.sweep(store=site.store, database=site.database)
    if removed:
        log.info("removed %d uploads that no row points to", removed)
    collected = garbage.collect(store=site.store, database=site.database)
    if collected != Collected():
        log.info(
            "of files that no row points to, set %d aside, removed %d, put %d back",
            collected.set_aside,
            collected.removed,
            collected.put_back,
        )
