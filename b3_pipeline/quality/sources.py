"""What stored rows are judged against: the legacy folder, the reports that were kept, the documents in `b3_captures`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from b3_pipeline.loading import kept
from b3_pipeline.loading.payloads import Found, Payload, survey
from b3_pipeline.loading.replay import kept_corrections
from b3_pipeline.parsing.kinds import LEGACY_KINDS, REPORT, Kind
from b3_pipeline.quality.documents import DOCUMENT_KINDS, documents_of, keys
from b3_pipeline.quality.finding import Context
from b3_pipeline.questdb.client import named
from b3_pipeline.tables import Table

KINDS: tuple[Kind, ...] = (*LEGACY_KINDS, REPORT)


def at_hand(folder: Path | None, home: Path) -> list[Found]:
    """The files of a legacy folder (None: no folder), the reports and the corrected rejects kept in the home.

    Raises UsageError when the folder is none.
    """
    return [*(survey(folder) if folder else []), *kept.kept(home), *kept_corrections(home)]


def kinds_of(table: Table, feed: str) -> list[Kind]:
    """The kinds of payload that bring rows of this feed into the table."""
    return [kind for kind in KINDS if kind.feed == feed and table.name in kind.tables]


def feeds_of(table: Table) -> tuple[str, ...]:
    """The feeds that can fill the table, by the kinds of payload that there are."""
    return tuple(dict.fromkeys(kind.feed for kind in KINDS if table.name in kind.tables))


class Sources:
    """The payloads of a feed for a table, in the order in which they count: of two with one key, the later stands.

    That is the loads' own order (FORMATS §3: the newer load's value stands); what was never loaded comes last. First of
    all come kept documents whose file is gone. `unproven` are the moments of documents that the ledger knows and
    that are no longer what they were: nothing can be said about rows of theirs.
    """

    def __init__(self, context: Context, table: Table, feed: str) -> None:
        self.context, self.table, self.feed = context, table, feed
        self.kinds = kinds_of(table, feed)
        self.unproven: set[datetime] = set()

    def __iter__(self) -> Iterator[Payload]:
        files = [p for f in self.context.files if f.kind in self.kinds and (p := f.loadable)]
        if any(kind in DOCUMENT_KINDS for kind in self.kinds):
            yield from self._documents(files)
        newest = self._newest_loads()
        yield from sorted(files, key=lambda p: newest.get(p.sha256, math.inf))

    def _documents(self, files: list[Payload]) -> Iterator[Payload]:
        """Kept documents that no file at hand gives."""
        given = {key for file in files if file.kind in DOCUMENT_KINDS for key in keys(file)}
        for document in documents_of(self.context, self.feed):
            if document.key in given:
                continue
            proven = document.payload()
            if proven is not None and proven.kind in self.kinds:
                yield proven
            elif proven is None and document.file is not None:
                self.unproven.add(document.ts)

    def _newest_loads(self) -> dict[str, int]:
        rows = self.context.db.query(
            named(
                "select sha256, max(load_id) from {loads} where table_name = %s and feed = %s and outcome = 'loaded' "
                "group by sha256",
                loads="b3_loads",
            ),
            self.table.name,
            self.feed,
        )
        return dict(rows)
