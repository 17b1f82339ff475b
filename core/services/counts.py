"""Token counts of data sets, filled in once: any process may count them, a lease makes it one at a time.

For the base that jobs get by default; a plan counts for any other. While there is no default base nothing is counted.
"""

import asyncio
import logging
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

from core.db.transactions import Database, snapshot, transaction
from core.domain.bases import Base, BaseNotFound
from core.domain.datasets import Dataset, DatasetFinding, TokenCounts
from core.domain.tokens import Counted, Lines, Report
from core.services import bases, leased
from core.services.inspectors import DATASETS, InspectionFailed, Inspector, Program
from core.services.leased import Desk
from core.services.renderers import Renderers
from core.storage.objects import ObjectMissing, Store

TRIES: Final = 2
log: Final = logging.getLogger("core.counts")
COUNTS: Final[Program[Report]] = Program(
    module="core.services.counting",
    outcome=TypeAdapter(Report),
    too_slow=Report(counted=None),
    most_bytes=DATASETS.most_bytes,
    copies=True,
    memory_bytes=2**31,
    slowest_bytes_per_second=2**17,
)


def count_pending(
    *, store: Store, database: Database, renderers: Renderers, default_base: str | None, lease_s: float
) -> int:
    """Count the tokens of every data set that is ready, uncounted and held by nobody; gives how many.

    Blocks while it works: call it from a thread of its own, again and again. A process that dies meanwhile leaves a
    lease that runs out. Where counting fails the data set is as good as before, and says so.

    Raises:
        Unavailable: The database or the store does not answer; what was claimed comes back after its lease.
    """
    desk = Desk(store=store, database=database, lease_s=lease_s)
    counted = 0
    while (base := _base(database, default_base)) is not None:
        with transaction(database) as tx:
            pending = tx.datasets.claim_uncounted(lease_s=lease_s)
        if pending is None:
            break
        try:
            outcome = _outcome(pending, base, renderers, desk)
        except leased.Gone:
            continue
        tokens, findings = (None, ()) if outcome is None else (_tokens(base, outcome), _findings(base, outcome))
        with transaction(database) as tx:
            tx.datasets.settle_tokens(pending.id, tokens, findings)
        counted += 1
    return counted


def _base(database: Database, default: str | None) -> Base | None:
    """Find the base to count for, if there is anything to count."""
    with snapshot(database) as tx:
        if not tx.datasets.has_uncounted():
            return None
    try:
        return bases.default(default, database=database)
    except BaseNotFound:
        return None


def _outcome(dataset: Dataset, base: Base, renderers: Renderers, desk: Desk) -> Counted | None:
    try:
        return asyncio.run(_counted(dataset, renderers.folder(base), desk))
    except (ObjectMissing, InspectionFailed) as problem:
        log.warning("the tokens of %s can't be counted for %s: %s", dataset.id, base.name, problem.code)
        return None


async def _counted(dataset: Dataset, folder: Path, desk: Desk, *, tries: int = TRIES) -> Counted | None:
    try:
        async with Inspector.started(COUNTS, limit_bytes=dataset.bytes) as reader:
            report = await leased.read(dataset, reader, desk, first=f"{folder}\n".encode())
            return report.counted
    except InspectionFailed:
        if tries == 1:
            raise
    return await _counted(dataset, folder, desk, tries=tries - 1)


def _tokens(base: Base, counted: Counted) -> TokenCounts:
    return TokenCounts(
        base=base.name,
        base_fingerprint=base.fingerprint,
        context_length=counted.context_length,
        total=counted.total,
        trained=counted.trained,
        longest_row=counted.longest_row,
        over_context=counted.over_context.rows,
        lengths=counted.lengths,
    )


def _findings(base: Base, counted: Counted) -> tuple[DatasetFinding, ...]:
    told = []
    if counted.over_context.rows:
        told.append(
            _warning(
                "rows_over_context",
                counted.over_context,
                f"longer than the {counted.context_length} tokens that {base.name} reads "
                f"(longest {counted.longest_row}).",
                "Shorten them, or send overlong 'drop' or 'truncate' with the job.",
            )
        )
    if counted.unfit.rows:
        told.append(
            _warning(
                "unfit_conversations",
                counted.unfit,
                f"that can't be written as {base.name} reads conversations.",
                "After at most one system text, user and assistant take turns, the user first; an answer has weight 1.",
            )
        )
    return tuple(told)


def _warning(code: str, lines: Lines, what: str, hint: str) -> DatasetFinding:
    rows = f"{lines.rows} row" if lines.rows == 1 else f"{lines.rows} rows"
    return DatasetFinding(
        severity="warning",
        line=lines.first[0],
        field=None,
        code=code,
        message=f"{rows} {what}",
        hint=hint,
        lines=tuple(lines.first),
        count=lines.rows,
    )
