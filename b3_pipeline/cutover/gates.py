"""The gates: rules over evidence that say whether a step may be made, what was found, and what to do (pure).

`evidence.py` finds what they judge. Whatever is not known is red: nothing is taken for granted on the day of a cutover.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

from b3_pipeline.alerts.engine import Alert
from b3_pipeline.capture_differences import Comparison, Difference
from b3_pipeline.lowdb.levelling import Parity
from b3_pipeline.postgres.callers import Caller
from b3_pipeline.postgres.compared import Counts
from b3_pipeline.postgres.flags import IDEAS, MARKET
from b3_pipeline.quality.freshness import Freshness
from b3_pipeline.sessions import to_local

#: Evidence of parity that is older says nothing about now.
PARITY_AGE = timedelta(hours=1)
BACKUP_AGE = timedelta(days=1)
#: Clocks may differ by so much; what is dated later is of no known moment.
_AHEAD = timedelta(minutes=1)
#: How the evidence begins of a gate that could not be looked at.
UNSEEN = "It could not be looked at"
#: Of many things the first ones are named.
_NAMED = 3
#: Where two documents of different moments differ; one that does not is our own, come back after a rollback.
_MOMENT = "/timestamp"
#: B3's surface has more tenors than the legacy collector keeps; what it keeps must be the same.
_MORE = "/superficie_volatilidade/"

_SAFE: Mapping[str, str] = {
    "alerts": "`b3 up` must run. What is wrong stands in the alert itself; it ends when that has been right for a while.",
    "backup": "`b3 backup create`, then `b3 backup verify`.",
}
#: By domain and gate.
WHAT_TO_DO: Mapping[str, Mapping[str, str]] = {
    MARKET: {
        "schema": "`b3 schema apply` makes what is missing, `b3 schema diff` says what else differs.",
        "parity": "`b3 validate` says which table, feed and key; `b3 validate --repair` loads again what is gone or changed.",
        "last_session": "`b3 validate` names the rows; a session without any: are the collector and its sensors on (`b3 status`)?",
        "mismatches": "Look at each on the page /paridade: mend it, or mark it as seen and say why it may stand. A route that was not "
        "compared: does the legacy side (B3_LEGACY_DIR, else B3_LEGACY_URL) answer it?",
        "comparisons": "Wait for a full session with a legacy capture in this phase; the check `composed` names fields that differ.",
        "freshness": "`b3 status` says what is late, `b3 doctor` tries its source, `b3 collect SOURCE` asks it now.",
        "archive": "`b3 status` says what waits: are the sensors on (Dagster, Automation), and what do their last ticks say?",
        "legacy_files": "Let the legacy collectors write for one full session in this phase; `b3 cutover rollback` is as good until then.",
        "callers": "Move these readers to /api/v1, or wait until three sessions have passed without a call of theirs.",
        **_SAFE,
    },
    IDEAS: {
        "schema": "`b3 lowdb migrate DIR` brings the schema to this release's version.",
        "parity": "`b3 lowdb migrate DIR` loads what the files have; `b3 lowdb parity` names the records.",
        "mismatches": "Look at each on the page /paridade: mend it, or mark it as seen and say why it may stand.",
        "comparisons": "Let the desk use its ideas for a while in this phase: each answer is compared beside.",
        "files": "Lead who still writes the LowDB files to /api/v1/ideas: what he writes there is in no table.",
        **_SAFE,
    },
}


class Verdict(NamedTuple):
    """Whether a gate is green, and what was found, in a sentence."""

    ok: bool
    found: str


@dataclass(frozen=True)
class Gate:
    """A gate that was looked at."""

    name: str
    ok: bool
    evidence: str
    domain: str = MARKET

    @property
    def what_to_do(self) -> str:
        """What makes it green; empty when it is."""
        return "" if self.ok else WHAT_TO_DO[self.domain][self.name]

    @property
    def public(self) -> str:
        """The evidence as anybody on the network may read it: an error may name a path of this machine."""
        return UNSEEN if self.evidence.startswith(UNSEEN) else self.evidence

    def document(self) -> dict[str, Any]:
        """Its part of the JSON of `b3 cutover`."""
        return {"name": self.name, "ok": self.ok, "evidence": self.evidence, "what_to_do": self.what_to_do}


def schema(differences: Mapping[str, Sequence[str]]) -> Verdict:
    """Every table is as contracted. `differences` are those of the tables that are not."""
    if not differences:
        return Verdict(ok=True, found="Every table is as contracted.")
    return Verdict(ok=False, found=_several(f"{table}: {'; '.join(said)}" for table, said in differences.items()))


def parity(report: Mapping[str, Any] | None, now: datetime) -> Verdict:
    """All that is stored is what was given: the report of `b3 validate`, made within the hour."""
    made = _moment(report.get("at")) if report else None
    if report is None or made is None:
        return Verdict(ok=False, found="Nothing was validated yet.")
    if not _of_late(made, now, PARITY_AGE):
        return Verdict(ok=False, found=f"The last validation is of {_utc(made)}: too old to say anything about now.")
    numbers = [feed for feeds in report["tables"].values() for feed in feeds.values()]
    keys, documents = sum(feed["source_keys"] for feed in numbers), report["payloads"]
    if not report["ok"]:
        return Verdict(ok=False, found=f"Validated at {_utc(made)}: {_several(report['errors'])}")
    if wrong := sum(feed[name] for feed in numbers for name in ("missing", "extra", "different")):
        return Verdict(ok=False, found=f"Validated at {_utc(made)}: {wrong:,} keys are not what their sources say.")
    if not keys:
        return Verdict(
            ok=False, found="There is nothing to compare: no source has a record. `b3 migrate` loads the history."
        )
    return Verdict(
        ok=True,
        found=f"{keys:,} keys of {len(numbers)} feeds and {documents['compared']:,} documents are what their sources say, "
        f"validated at {_utc(made)}.",
    )


def last_session(session: date, keys: int, failed: Sequence[str]) -> Verdict:
    """The session that ended last is complete. `keys` were compared, `failed` are the checks that did not pass."""
    if failed:
        return Verdict(ok=False, found=f"Session {session}: {_several(failed)}")
    if not keys:
        return Verdict(ok=False, found=f"Session {session} has no row.")
    return Verdict(ok=True, found=f"Session {session}: {keys:,} keys are what their sources say.")


def mismatches(open_count: int, compared: int, routes: int) -> Verdict:
    """No answer of the legacy routes differed from ours that nobody has looked at.

    Nobody may have called: so each of the `routes` was asked just now on both sides, and `compared` of them were.
    """
    found = f"{open_count or 'No'} open mismatch{'' if open_count == 1 else 'es'} of payloads"
    asked = f"{compared} of {routes} legacy routes were compared just now"
    return Verdict(open_count == 0 and 0 < routes == compared, f"{found}; {asked}.")


def comparisons(
    session: date | None, captures: Collection[str], made: Iterable[Comparison], torn: Sequence[str] = ()
) -> Verdict:
    """Over a full session of this phase the composed capture said what the legacy one did.

    `captures` are the SHA-256 of the legacy captures of that session; differences that are bound to be count as equal.
    `torn` names what came and is no capture: nothing can be compared with it.
    """
    if session is None:
        return Verdict(ok=False, found="No full session has passed in this phase yet.")
    verdict = _compared(session, captures, made)
    return verdict._replace(found=f"{verdict.found} Torn: {_several(torn)}") if torn else verdict


def _compared(session: date, captures: Collection[str], made: Iterable[Comparison]) -> Verdict:
    all_of_session = [one for one in made if one.session == session]
    of_session = [one for one in all_of_session if not _our_own(one)]
    captures = set(captures) - {one.legacy_sha256 for one in all_of_session if _our_own(one)}
    compared = {one.legacy_sha256 for one in of_session}
    if not of_session:
        came = f"{len(captures)} legacy captures came" if captures else "no legacy capture came"
        return Verdict(ok=False, found=f"Session {session}: {came}, and none was compared with a composed one.")
    if missing := len(captures - compared):
        return Verdict(ok=False, found=f"Session {session}: {missing} legacy captures were not compared.")
    if unlike := [d.pointer for one in of_session for d in one.differences if not _explained(d)]:
        return Verdict(ok=False, found=f"Session {session}: {len(unlike)} fields differ: {_several(unlike)}")
    fields = sum(one.fields for one in of_session)
    return Verdict(
        ok=True, found=f"Session {session}: {len(compared)} captures compared, {fields} fields, none differs."
    )


def _explained(difference: Difference) -> bool:
    """Whether a difference counts as equal: it is bound to be, or a tenor that the legacy capture does not have."""
    more = difference.kind == "extra" and difference.pointer.startswith(_MORE)
    return more or difference.kind == "expected"


def _our_own(one: Comparison) -> bool:
    """Whether a legacy capture is a composed one that a rollback has written: the same, and of the very same moment."""
    return all(d.kind == "expected" and d.pointer != _MOMENT for d in one.differences)


def freshness(tables: Mapping[str, Freshness]) -> Verdict:
    """Every table has what its live sources should have brought by now."""
    late = [name for name, found in tables.items() if found.fresh is False]
    judged = sum(found.fresh is not None for found in tables.values())
    if late:
        return Verdict(ok=False, found=f"Late: {', '.join(late)}.")
    if not judged:
        return Verdict(ok=False, found="No table is fed by a source that is collected.")
    return Verdict(ok=True, found=f"{judged} tables have what was due by now.")


def archive(sources: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """Everything that was collected is loaded."""
    if not sources:
        return Verdict(ok=False, found="Nothing was collected yet.")
    behind = [f"{name} by {found['behind']} entries" for name, found in sources.items() if found["behind"]]
    if behind:
        return Verdict(ok=False, found=f"Not loaded yet: {_several(behind)}")
    return Verdict(ok=True, found=f"All that came from {len(sources)} sources is loaded.")


def alerts(open_errors: Sequence[Alert], *, watched: bool) -> Verdict:
    """No alert of severity ERROR is open, and somebody looks."""
    if open_errors:
        return Verdict(ok=False, found=f"{len(open_errors)} open: {_several(alert.what for alert in open_errors)}")
    if not watched:
        return Verdict(ok=False, found="Nobody watches: the monitor does not run.")
    return Verdict(ok=True, found="No alert of severity ERROR is open.")


def backup(newest: tuple[str, datetime] | None, now: datetime) -> Verdict:
    """A verified backup (its name, and the moment that it is of, aware UTC) is younger than a day."""
    if newest is None:
        return Verdict(ok=False, found="There is no verified backup.")
    name, at = newest
    return Verdict(_of_late(at, now, BACKUP_AGE), f"The newest verified backup is {name}, of {_utc(at)}.")


def legacy_files(session: date | None, written: Mapping[str, bool]) -> Verdict:
    """The legacy side went on for a full session of this phase: by source, whether something of it came then."""
    if session is None:
        return Verdict(ok=False, found="No full session has passed in this phase yet.")
    if not written:
        return Verdict(ok=False, found="Nothing of the legacy side was ever collected.")
    silent = [source for source, came in written.items() if not came]
    if silent:
        return Verdict(ok=False, found=f"In session {session} nothing came of {', '.join(silent)}.")
    return Verdict(ok=True, found=f"In session {session} all {len(written)} legacy files were written.")


def callers(since: date, found: Sequence[Caller]) -> Verdict:
    """Nobody has called a legacy route since a session."""
    if not found:
        return Verdict(ok=True, found=f"Nobody has called a legacy route since session {since}.")
    said = (
        f"{one.address} ({one.agent or 'no agent'}) {one.route} {one.count:,} times, last at {_utc(one.last_at)}"
        for one in found
    )
    return Verdict(ok=False, found=f"Since session {since} {len(found)} callers: {_several(said)}")


def ideas_schema(found: str | None, wanted: str) -> Verdict:
    """The schema of the ideas is of this release's version."""
    if found == wanted:
        return Verdict(ok=True, found=f"The schema is of version {wanted}.")
    return Verdict(ok=False, found=f"The schema is of version {found or 'none'}, and this release's is {wanted}.")


def ideas_parity(found: Mapping[str, Parity]) -> Verdict:
    """The tables say what the LowDB files do, by table."""
    if wrong := [f"{table}: {parity.numbers()}" for table, parity in found.items() if not parity.ok]:
        return Verdict(ok=False, found=_several(wrong))
    records = sum(parity.source_keys for parity in found.values())
    return Verdict(ok=records > 0, found=f"{records:,} records of {len(found)} tables are what the LowDB files say.")


def ideas_mismatches(open_count: int) -> Verdict:
    """No answer of the files differed from the tables' that nobody has looked at."""
    return Verdict(
        open_count == 0, f"{open_count or 'No'} open mismatch{'' if open_count == 1 else 'es'} of the stores' answers."
    )


def ideas_comparisons(counts: Counts) -> Verdict:
    """Answers were compared since the phase began."""
    made = counts.equal + counts.superseded + counts.different
    return Verdict(
        made > 0,
        f"{made:,} answers were compared in this phase: {counts.different:,} differed, {counts.dropped:,} were dropped, "
        f"{counts.failed:,} could not be compared; {counts.unmirrored:,} writes came late.",
    )


def ideas_files(before: Mapping[str, str], now: Mapping[str, str]) -> Verdict:
    """Nobody has written the LowDB files since the tables took over: their SHA-256 then and now, by name."""
    if not before:
        return Verdict(ok=False, found="No log says what the files were when the tables took over.")
    if changed := sorted(name for name, sha256 in now.items() if before.get(name) != sha256):
        return Verdict(ok=False, found=f"Somebody has written {_several(changed)}")
    return Verdict(ok=True, found=f"{' and '.join(now)} are as they were when the tables took over.")


def _of_late(at: datetime, now: datetime, age: timedelta) -> bool:
    """Whether a moment is at most so long ago; one that is ahead of now is not."""
    return -_AHEAD <= now - at <= age


def _several(said: Iterable[str]) -> str:
    """The first few, and how many more there are."""
    texts = list(said)
    more = f" … and {len(texts) - _NAMED} more" if len(texts) > _NAMED else ""
    return "; ".join(text.rstrip(".") for text in texts[:_NAMED]) + more + "."


def _moment(given: Any) -> datetime | None:
    """A moment as a report has it, aware UTC."""
    try:
        found = given if isinstance(given, datetime) else datetime.fromisoformat(given)
    except (TypeError, ValueError):
        return None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC ({to_local(moment):%H:%M} Brasília)"
