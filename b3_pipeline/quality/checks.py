"""The checks of every table, made from its contract by one factory: a new table gets its checks with its contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import chain, combinations, zip_longest
from typing import Any, Literal

import numpy as np

from b3_pipeline.quality import accounts, bounds, gaps
from b3_pipeline.quality.beside import composed, shadow
from b3_pipeline.quality.documents import CAPTURES
from b3_pipeline.quality.finding import SHOWN, Context, Finding, located, reason_of, verdict
from b3_pipeline.quality.freshness import fresh
from b3_pipeline.quality.parity import Parity, compare, parity, stored_rows
from b3_pipeline.quality.rebuild import rebuild
from b3_pipeline.quality.rejects import rejects
from b3_pipeline.quality.sources import feeds_of
from b3_pipeline.quality.stored import during, grouped, of_feed, repeated_keys, stretches
from b3_pipeline.questdb import schema
from b3_pipeline.questdb.client import QuestDBError, named
from b3_pipeline.sessions import Window, to_local
from b3_pipeline.tables import LEDGERS, Table

__all__ = ["Check", "Context", "Finding", "checks_of", "parity_check", "twice"]

#: Rows written that do not show after this long are held up by something.
PENDING_LONG_S = 60
PARITY = "parity_"
Look = Callable[[Context, Window], Finding]


@dataclass(frozen=True)
class Check:
    """One question about one table. `blocking`: what follows would be wrong, so it must not follow.

    `run(context, window)` looks at the rows of a window (`ALWAYS`: at all of them); the questions about the table as a
    whole (schema, wal) do not mind it. It raises QuestDBError when the server is away or refuses. `finding` is the same,
    and a check that could not be made has not passed.
    """

    name: str
    table: Table
    description: str
    severity: Literal["ERROR", "WARN"]
    blocking: bool
    run: Look

    def finding(self, context: Context, window: Window) -> Finding:
        try:
            return self.run(context, window)
        except Exception as error:  # one that fails must not hide what the others find
            return Finding(passed=False, advice=reason_of(error))


def twice(check: Check, context: Context, again: Callable[[], Context], window: Window) -> Finding:
    """What a check finds; where parity finds a fault it looks once more, in a context made anew.

    While it looked, loads may have gone on: rows of a payload that was not there yet are no fault.
    """
    found = check.finding(context, window)
    return found if found.passed or not check.name.startswith(PARITY) else check.finding(again(), window)


def checks_of(table: Table) -> tuple[Check, ...]:
    """Every check that the table's contract asks for, structural ones first."""
    return tuple(chain(_structure(table), _bounds(table), _market(table), _ledger(table)))


def _structure(table: Table) -> Iterator[Check]:
    yield _error("schema", table, "Columns, types, keys and partitions are as contracted.", _schema)
    yield _error("wal", table, "What was written shows: its log is neither suspended nor held up.", _wal)
    keys = ", ".join(table.keys)
    yield _error("unique_keys", table, f"No two rows have the same ({keys}).", _unique_keys)


def _bounds(table: Table) -> Iterator[Check]:
    yield _error("hard_bounds", table, "Keys are given, numbers lie within what may be stored.", _hard_bounds)
    if table.on_sessions or any(c.soft for c in table.columns) or any(not a.hard for a in table.ascending):
        yield _warning(
            "soft_bounds", table, "Numbers lie within what is usual, rows on sessions up to now.", _soft_bounds
        )


def _market(table: Table) -> Iterator[Check]:
    for feed in feeds_of(table) if table.has_feed else ():
        yield parity_check(table, feed)
    if table.has_feed:
        yield _warning("gaps", table, "Every session since a feed's first has rows, buckets and captures of it.", _gaps)
        yield _warning("rejects", table, "The newest load of each file put nothing into quarantine.", rejects)
        yield _warning("freshness", table, "What the live sources should have brought by now is there.", fresh)
        yield _warning("shadow", table, "The shadow files say what the table does, while they are written.", shadow)
        yield _warning("feeds_agree", table, "Where two feeds have one key, they have the same values.", _feeds_agree)


def _ledger(table: Table) -> Iterator[Check]:
    if table is CAPTURES:
        what = "The tables give every kept document back: the same JSON, keys in the same order."
        said = "The composed captures say what the legacy ones do, in the newest session with both."
        yield _warning("composed", table, said, composed)
        yield Check("rebuild", table, what, "ERROR", False, _on_contract(table, _rebuild))
    if table is accounts.LOADS:
        what = "Candidates = loaded + rejected + duplicate + absent; rejects and rows are where they were counted."
        yield _error("identity", table, what, _identity)


def parity_check(table: Table, feed: str) -> Check:
    """The check that rows of a feed are what its source says, also for a feed that no parser knows."""

    def look(_table: Table, context: Context, within: Window) -> Finding:
        return _parity(parity(context, table, feed, within), context.tolerance)

    what = f"The rows of feed {feed} are those of its source: no key missing, none extra, no value different."
    return _error(f"{PARITY}{feed}", table, what, look)


def _error(name: str, table: Table, what: str, look: Callable[[Table, Context, Window], Finding]) -> Check:
    return Check(name, table, what, "ERROR", True, _on_contract(table, look, skip=name in ("schema", "wal")))


def _warning(name: str, table: Table, what: str, look: Callable[[Table, Context, Window], Finding]) -> Check:
    return Check(name, table, what, "WARN", False, _on_contract(table, look))


def _on_contract(table: Table, look: Callable[[Table, Context, Window], Finding], *, skip: bool = False) -> Look:
    """Looks only where the table has the contract's columns: else the server could not even be asked.

    What was written shows first: NotApplied is raised where it does not.
    """

    def run(context: Context, within: Window) -> Finding:
        problems = [] if skip else _column_problems(context, table)
        if problems:
            return Finding(
                False, {"schema": "; ".join(problems)}, [], "The check could not look: mend the schema first."
            )
        if not skip:
            for name in (table.name, *(ledger.name for ledger in LEDGERS)):
                context.db.wait_applied(name)
        return look(table, context, within)

    return run


def _column_problems(context: Context, table: Table) -> list[str]:
    wanted, found = schema.contract_shape(table), schema.server_shape(context.db, table.name)
    return [p for p in schema.differences(wanted, found) if "missing" in p]


def _schema(table: Table, context: Context, _window: Window) -> Finding:
    problems = schema.differences(schema.contract_shape(table), schema.server_shape(context.db, table.name))
    return verdict(
        len(problems),
        {"differences": len(problems)},
        ({"table": table.name, "difference": problem, "partition": ""} for problem in problems),
        "A table that is missing: `b3 schema apply`. A column or key that differs: put it back by hand in QuestDB's "
        "console (ALTER TABLE … ADD COLUMN, DROP COLUMN, DEDUP ENABLE UPSERT KEYS), then `b3 validate --repair`.",
    )


def _wal(table: Table, context: Context, _window: Window) -> Finding:
    state = context.db.query(
        "select suspended, writerTxn, sequencerTxn, errorMessage from wal_tables() where name = %s", table.name
    )
    if not state:
        return Finding(False, {"suspended": 0}, [], "The table is not there, or no WAL table: see the check schema.")
    suspended, applied, written, message = state[0]
    seconds = _pending_seconds(context, table, applied) if applied < written else 0
    numbers = {"suspended": int(suspended), "pending_transactions": written - applied, "pending_seconds": seconds}
    return verdict(
        suspended or seconds > PENDING_LONG_S,
        numbers,
        [{"table": table.name, "message": message or "", "partition": "", **numbers}],
        f"Free disk space if it is full, then in QuestDB's console: ALTER TABLE {table.name} RESUME WAL. Until then rows "
        "are accepted and hidden.",
    )


def _pending_seconds(context: Context, table: Table, applied: int) -> int:
    """How long the oldest transaction that does not show has been waiting, by the server's clock."""
    query = "select min(timestamp), now() from wal_transactions(%s) where sequencerTxn > %s"
    try:
        oldest, now = context.db.query(query, table.name, applied)[0]
    except QuestDBError:  # the transactions were applied and forgotten meanwhile
        return 0
    return round((now - oldest).total_seconds()) if oldest else 0


def _unique_keys(table: Table, context: Context, within: Window) -> Finding:
    repeated, shown = 0, []
    for where in grouped(context.db, table, within):
        twice = repeated_keys(table, where)
        # not count(): the server then forgets the keys and counts all rows as one group (9.3.4)
        repeated += context.db.scalar(named("select count(n) ") + twice.text, *twice.values)
        if repeated and len(shown) < SHOWN:
            ordered = named(" order by {ts} limit 20", ts=table.timestamp)
            shown += context.db.query(named("select * ") + twice.text + ordered, *twice.values)
    named_rows = (located(table, dict(zip((*table.keys, "rows"), row, strict=True))) for row in shown)
    return verdict(
        repeated,
        {"repeated_keys": repeated},
        named_rows,
        "DEDUP was off when they were written. Put it on (see the check schema), then `b3 validate --repair` keeps one "
        "row of each key.",
    )


def _hard_bounds(table: Table, context: Context, within: Window) -> Finding:
    return _rules(
        [bounds.broken(context, table, rule, within) for rule in bounds.hard_rules(context.db, table)],
        "No load writes such rows: somebody else has. `b3 validate --repair` puts back what a source says and takes out "
        "what none says.",
    )


def _soft_bounds(table: Table, context: Context, within: Window) -> Finding:
    found = [bounds.broken(context, table, rule, within) for rule in bounds.soft_rules(context.db, table)]
    if table.on_sessions:
        found.append(bounds.off_sessions(context, table, within))
    if table.has_feed:
        found.append(bounds.of_the_future(context, table, within))
    return _rules(found, "Unusual, and stored as given: compare with the source; correct it there if it is wrong.")


def _rules(found: list[tuple[int, list[dict[str, Any]]]], advice: str) -> Finding:
    rows = sum(n for n, _shown in found)
    numbers = {"rows": rows, "rules": len(found), "rules_broken": sum(n > 0 for n, _shown in found)}
    return verdict(rows, numbers, _in_turn([shown for _n, shown in found]), advice)


def _parity(result: Parity, tolerance: int) -> Finding:
    numbers: dict[str, int | str] = {
        **result.numbers,
        "sources": len(result.read),
        "unreadable": len(result.unreadable),
    }
    if result.unreadable:
        numbers["unreadable_files"] = "; ".join(result.unreadable)
    problems = ("missing", "extra", "different")
    shown = _in_turn([[row for row in result.offending if row["problem"] == problem] for problem in problems])
    found = verdict(not result.holds(tolerance), numbers, shown, _parity_advice(result))
    return replace(found, undecided=result.sourceless, partitions=[] if found.passed else result.drill.told())


def _parity_advice(result: Parity) -> str:
    if result.sourceless:
        unreadable = f" ({'; '.join(result.unreadable)})" if result.unreadable else ""
        return (
            f"{result.table_keys} rows of {result.feed} and no source to judge them by{unreadable}: give the legacy folder "
            "(`b3 validate --legacy DIR`, B3_LEGACY_DIR), load a report once more with `b3 settlements FILE.zip`."
        )
    unread = f"Not all could be read ({'; '.join(result.unreadable)}): mend these files. " if result.unaccounted else ""
    return (
        f"{unread}`b3 validate --repair` loads again what is missing or different, and takes out of closed partitions what no "
        "source has (kept as a Parquet file)."
    )


def _gaps(table: Table, context: Context, within: Window) -> Finding:
    found = gaps.find(context, table, within)
    missing = [gap for gap in found if gap.key not in context.marked_gaps]
    today = to_local(context.now).date()
    sessions = gaps.together(gaps.most_urgent_first(missing, today))
    numbers = {
        "missing_sessions": len(sessions),
        "missing_parts": sum(bool(gap.part) for gap in missing),
        "marked_as_known": len(found) - len(missing),
    }
    advice = gaps.advice(missing, today) if missing else ""
    return verdict(len(missing), numbers, (_missed(some, today) for some in sessions), advice)


def _missed(some: list[gaps.Gap], today: date) -> dict[str, Any]:
    """A session of which gaps are together."""
    [first, *_] = some
    about = {"partition": first.session.isoformat(), "feed": first.feed, "part": gaps.parts(some) or None}
    until = first.available_until.isoformat() if first.available_until else None
    return {**about, "available_until": until, "sessions_left": first.sessions_left(today)}


def _feeds_agree(table: Table, context: Context, within: Window) -> Finding:
    spans = _feed_spans(context, table, within)
    compared = different = 0
    shown: list[dict[str, Any]] = []
    for one, other in combinations(sorted(spans), 2):
        both = Window(
            max(spans[one][0], spans[other][0]), min(spans[one][1], spans[other][1]) + timedelta(microseconds=1)
        )
        if both.start is not None and both.end is not None and both.start < both.end:
            pairs, unlike, rows = _disagreements(context, table, one, other, both)
            compared, different, shown = compared + pairs, different + unlike, shown + rows
    return verdict(
        different,
        {"feeds": len(spans), "keys_in_two_feeds": compared, "different": different},
        shown,
        "Readers get the value of the feed that takes precedence. Find out which one is right, and correct the other's source.",
    )


def _feed_spans(context: Context, table: Table, within: Window) -> dict[str, tuple[Any, Any]]:
    where = during(table, within)
    query = named("select feed, min({ts}), max({ts}) from {t} where ", ts=table.timestamp, t=table.name)
    rows = context.db.query(query + where.text + named(" group by feed"), *where.values)
    return {feed: (first, last) for feed, first, last in rows if feed is not None}


def _disagreements(
    context: Context, table: Table, one: str, other: str, both: Window
) -> tuple[int, int, list[dict[str, Any]]]:
    """(keys in both feeds, of which different, the first of these), stretch by stretch."""
    compared, different, shown = 0, 0, []
    feeds = of_feed(one) | of_feed(other)
    for stretch, rows in stretches(context.db, table, context.limit, both, feeds):
        if not rows:
            continue
        left, right = (stored_rows(context, table, feed, stretch, rows) for feed in (one, other))
        found = compare(table, left, right)
        compared, different = compared + len(found.pairs[0]), different + len(found.different)
        for column, unlike in found.unlike.items():
            for a, b in np.array(found.pairs).T[unlike][:SHOWN].tolist():
                row = left.slice(a, 1).to_pylist()[0]
                values = {one: row[column], other: right.column(column)[b].as_py()}
                keys = {key: row[key] for key in table.keys if key != "feed"}
                shown.append({**located(table, keys), "column": column, **values})
    return compared, different, shown[:SHOWN]


def _rebuild(_table: Table, context: Context, within: Window) -> Finding:
    found = rebuild(context, within)
    return verdict(
        found.different,
        {"compared": found.compared, "different": found.different, "beyond": found.beyond},
        found.offending,
        "The legacy endpoints answer from the kept document, so readers see it as it was. Rows that are gone or changed: "
        "`b3 validate --repair`. A key or precision that no table holds is a change of the collector's: tell the "
        "developers.",
    )


def _identity(_table: Table, context: Context, within: Window) -> Finding:
    unclosed = list(accounts.unclosed(context, within))
    quarantine = list(accounts.misquarantined(context, within))
    stored = list(accounts.misstored(context, within))
    unknown = list(accounts.unknown_loads(context))
    lost = list(accounts.lost(context))
    numbers = {
        "loads": accounts.count(context.db, accounts.LOADS, accounts.accounted(within)),
        "unclosed": len(unclosed),
        "quarantine_differs": len(quarantine),
        "rows_differ": len(stored),
        "unknown_loads": len(unknown),
        "tables_short": len(lost),
        "started_long_ago": accounts.abandoned(context),
    }
    strangers = [
        {
            "problem": f"{rows} rows of a load that the ledger does not know",
            "table_name": table.name,
            "load_id": load_id,
        }
        | {"partition": located(table, {table.timestamp: first})["partition"]}
        for table, load_id, first, rows in unknown
    ]
    short = [
        {"problem": f"{loaded} rows loaded at once, {rows} are there", "table_name": table.name, "partition": ""}
        for table, loaded, rows in lost
    ]
    return verdict(
        len(unclosed) + len(quarantine) + len(stored) + len(unknown) + len(lost),
        numbers,
        _in_turn([[fault.row() for fault in some] for some in (unclosed, quarantine, stored)] + [strangers, short]),
        "`b3 validate --repair` reads the files of these loads again and writes down what they hold. Rows of unknown "
        "loads are taken out where their source does not have them. TP-Capital's: `b3 signals import` once more.",
    )


def _in_turn(groups: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One of each group in turn, so that a long one does not hide the others."""
    return [row for turn in zip_longest(*groups) for row in turn if row is not None][:SHOWN]
