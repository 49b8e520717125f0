"""`b3 validate --repair`: loads again what is gone or changed, and rebuilds closed partitions that have rows too many.

A row is taken out only where it cannot be its load's (ADR 9), and is kept as a file. The newest partition is never
rebuilt: QuestDB would allow it, and rows that are being written could be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.loading.payloads import Payload
from b3_pipeline.quality import accounts
from b3_pipeline.quality.finding import Context, reason_of
from b3_pipeline.quality.parity import Parity, parity
from b3_pipeline.quality.rebuilding import NotRebuilt, Rebuilding
from b3_pipeline.quality.sources import Sources, feeds_of
from b3_pipeline.quality.stored import doubled_partitions, keyless_partitions
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
            except Exception as error:  # one table must not keep the others from being repaired
                actions.append({"table": table.name, "action": "left", "reason": reason_of(error)})
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
        db, table = self.context.db, rebuilding.table
        partitions = doubled_partitions(db, table) | keyless_partitions(db, table)
        for result in results.values():
            yield from self._refused(result)
            partitions |= {name for name in result.crowded if self._removable(name, [result])}
        for name in sorted(partitions):
            try:
                yield rebuilding.rebuild(name, lambda name=name: self._removable(name, results.values()))
            except NotRebuilt as error:
                yield {"table": table.name, "partition": name, "action": "left", "reason": str(error)}

    def _removable(self, partition: str, results: Iterable[Parity]) -> set[int]:
        """The loads whose extra rows in a partition cannot be theirs, by what the ledger says now."""
        return {
            load_id
            for result in results
            for load_id in result.crowded.get(partition, ())
            if self._objection(result, load_id) is None
        }

    def _objection(self, result: Parity, load_id: int) -> str | None:
        """Why the extra rows of a load may be its own; None when they cannot be.

        They cannot when the ledger has no such load, when its payload is at hand and does not have the keys, or when
        just so many rows too many bear its id. Of a load that has not finished nothing is known yet.
        """
        load = self._load(result.table, load_id)
        if load is None:
            return None
        if load["outcome"] in accounts.UNFINISHED:
            return f"they came with {load['file']}, and that load has not finished: run it again"
        too_many = load["rows"] - load["loaded"] if load["outcome"] == "loaded" else 0
        if load["sha256"] in {sha256 for _name, sha256 in result.read} or result.strangers[load_id] <= too_many:
            return None
        return (
            f"they came with {load['file']} (SHA-256 {load['sha256'][:12]}…), which is no longer at hand as it was: "
            "give that file, or leave them"
        )

    def _refused(self, result: Parity) -> Iterator[Action]:
        about = {"table": result.table.name, "feed": result.feed, "action": "refused"}
        if result.sourceless:
            yield {**about, "rows": result.table_keys, "reason": "no source is at hand: give it with --legacy DIR"}
        for load_id, rows in sorted(result.strangers.items()):
            if reason := self._objection(result, load_id):
                yield {**about, "rows": rows, "load_id": load_id, "reason": reason}

    def _load(self, table: Table, load_id: int) -> Action | None:
        """What the ledger has of a load, with the rows that bear its id; None when it has nothing."""
        db = self.context.db
        db.wait_applied(accounts.LOADS.name)
        query = "select file, sha256, loaded, outcome from b3_loads where load_id = %s and table_name = %s"
        found = db.query(query, load_id, table.name)
        if not found:
            return None
        rows = db.scalar(named("select count() from {t} where load_id = %s", t=table.name), load_id)
        return dict(zip(("file", "sha256", "loaded", "outcome", "rows"), (*found[0], rows), strict=True))

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
