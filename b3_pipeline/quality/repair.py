"""`b3 validate --repair`: loads again what is gone or changed, and rebuilds closed partitions that have rows too many.

A row is taken out only where its source is at hand and does not have it, and is kept as a file. The newest partition is
never rebuilt: QuestDB would allow it, and rows that are being written could be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from b3_pipeline.errors import B3Error
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.loading.payloads import Payload
from b3_pipeline.quality import accounts
from b3_pipeline.quality.finding import Context
from b3_pipeline.quality.parity import Parity, parity
from b3_pipeline.quality.rebuilding import Rebuilding
from b3_pipeline.quality.sources import Sources, feeds_of
from b3_pipeline.quality.stored import doubled_partitions
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import named
from b3_pipeline.sessions import ALWAYS
from b3_pipeline.tables import MARKET_TABLES, Table

Action = dict[str, Any]


@dataclass(frozen=True)
class Repair:
    """One repair of all market tables. `loader` reads payloads `again`; `announce` is told each table."""

    context: Context
    loader: Loader
    announce: Callable[[Table], None] = lambda _table: None

    def run(self) -> list[Action]:
        """Repairs what can be; returns what was done, and what was left with the reason.

        Each action has table, action (put back, rebuilt, loaded again, refused, left) and what it was about.
        """
        actions: list[Action] = []
        for table in MARKET_TABLES:
            self.announce(table)
            try:
                actions += self._table(table)
            except (B3Error, OSError) as error:
                actions.append({"table": table.name, "action": "left", "reason": str(error)})
        return actions

    def _table(self, table: Table) -> Iterator[Action]:
        schema.require(self.context.db, table)
        rebuilding = Rebuilding(self.context, table)
        yield from rebuilding.put_back()
        results = {feed: parity(self.context, table, feed) for feed in feeds_of(table)}
        yield from self._rebuilt(rebuilding, results)
        for feed, result in results.items():
            yield from self._loaded(table, feed, self._wanted(table, feed, result))

    def _rebuilt(self, rebuilding: Rebuilding, results: dict[str, Parity]) -> Iterator[Action]:
        """Partitions with rows too many, or with a key twice, once each."""
        partitions = {name: set[int]() for name in doubled_partitions(self.context.db, rebuilding.table)}
        for result in results.values():
            yield from self._refused(result)
            removable = self._removable(result)
            for name, loads in result.crowded.items():
                if loads & removable:
                    partitions.setdefault(name, set()).update(loads & removable)
        for name, loads in sorted(partitions.items()):
            yield rebuilding.rebuild(name, loads)

    def _removable(self, result: Parity) -> set[int]:
        """The loads whose extra rows cannot be theirs.

        The ledger does not know the load, its payload is at hand and does not have the key, or just so many rows too
        many bear its id.
        """
        at_hand = {sha256 for _name, sha256 in result.read}
        return {
            load_id
            for load_id, extra in result.strangers.items()
            if (load := self._load(result.table, load_id)) is None
            or load["sha256"] in at_hand
            or extra <= load["rows"] - load["loaded"]
        }

    def _refused(self, result: Parity) -> Iterator[Action]:
        about = {"table": result.table.name, "feed": result.feed, "action": "refused"}
        if result.sourceless:
            yield {**about, "rows": result.table_keys, "reason": "no source is at hand: give it with --legacy DIR"}
        for load_id in sorted(set(result.strangers) - self._removable(result)):
            load = self._load(result.table, load_id) or {}
            reason = (
                f"they came with {load['file']} (SHA-256 {load['sha256'][:12]}…), which is no longer at hand as it was: "
                "give that file, or leave them"
            )
            yield {**about, "rows": result.strangers[load_id], "load_id": load_id, "reason": reason}

    def _load(self, table: Table, load_id: int) -> Action | None:
        """File, payload and counts of a finished load, with the rows that bear its id; None when there is none."""
        query = (
            "select file, sha256, loaded from b3_loads where load_id = %s and table_name = %s and outcome = 'loaded'"
        )
        found = self.context.db.query(query, load_id, table.name)
        if not found:
            return None
        rows = named("select count() from {t} where load_id = %s", t=table.name)
        file, sha256, loaded = found[0]
        return {"file": file, "sha256": sha256, "loaded": loaded, "rows": self.context.db.scalar(rows, load_id)}

    def _wanted(self, table: Table, feed: str, result: Parity) -> set[str]:
        """The SHA-256 of the payloads to load again: what parity misses, and loads whose account does not close."""
        faults: Sequence[accounts.Fault] = [
            *accounts.unclosed(self.context, ALWAYS),
            *accounts.misquarantined(self.context, ALWAYS),
            *accounts.misstored(self.context, ALWAYS),
        ]
        of_table = {f.load["sha256"] for f in faults if (f.load["table_name"], f.load["feed"]) == (table.name, feed)}
        return {result.read[place][1] for place in result.to_load} | of_table

    def _loaded(self, table: Table, feed: str, wanted: set[str]) -> Iterator[Action]:
        payloads = [p for p in Sources(self.context, table, feed) if p.sha256 in wanted] if wanted else []
        claimed: set[int] = set()
        for payload in payloads:
            report = self.loader.load(payload, table, claimed)
            if report.load is not None:
                claimed.add(report.load.load_id)
            yield _told(payload, table, feed, report)


def _told(payload: Payload, table: Table, feed: str, report: LoadReport) -> Action:
    about = {"table": table.name, "feed": feed, "action": "loaded again", "file": payload.name}
    load_id = report.load.load_id if report.load else None
    return {**about, "load_id": load_id, "outcome": report.outcome, "reason": report.reason or ""}
