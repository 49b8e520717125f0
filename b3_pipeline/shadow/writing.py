"""Writing the shadow files: what loads brought, or all that the tables hold of a stretch of time.

No function here raises for what goes wrong with a file or a server: a load must not fail for its shadow. It is said in
the report, and the next call that covers the same time puts it right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from b3_pipeline.choosing import COMPOSED
from b3_pipeline.errors import B3Error
from b3_pipeline.loading.load import LoadReport
from b3_pipeline.loading.payloads import HISTORY_FOLDER
from b3_pipeline.parsing.kinds import CAPTURE, GAMMA, Kind
from b3_pipeline.parsing.records import FileRejected
from b3_pipeline.quality.documents import CAPTURES, parsed
from b3_pipeline.quality.stored import Condition
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.sessions import ALWAYS, Window, to_local, to_utc
from b3_pipeline.shadow import rows
from b3_pipeline.shadow.files import Folder, alone
from b3_pipeline.shadow.forms import FORMS, Damaged, Form, Gathered, Lines, file_of, lines_of
from b3_pipeline.tables import TABLES, Table

_MICROSECOND = timedelta(microseconds=1)
#: The files that hold whole documents, by the endpoint that these are of.
DOCUMENT_KINDS: dict[str, Kind] = {"ultimo-dado": CAPTURE, "gamma": GAMMA}


@dataclass(frozen=True)
class ShadowReport:
    """What came of one shadow file. `outcome` is written, unchanged (it has these bytes), nothing (no row for it) or failed.

    `rows` are the tables' rows (or documents) that were put into it now, or stood there; `beyond` those that the legacy
    form cannot hold; `damaged` names the files that were moved aside.
    """

    file: str
    outcome: str
    rows: int = 0
    beyond: int = 0
    damaged: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def ok(self) -> bool:
        return self.outcome != "failed"


def shadow_loads(db: QuestDB, folder: Path, reports: Iterable[LoadReport]) -> list[ShadowReport]:
    """Shadows what the loads of a tick brought: a report for each file that their tables have.

    An unchanged load counts, too: it may have been killed between its table and its shadow.
    """
    loads: dict[str, list[int]] = {}
    for report in reports:
        if report.load is not None and report.outcome in ("loaded", "partial", "unchanged"):
            loads.setdefault(report.load.table_name, []).append(report.load.load_id)
    return [found for table, ids in loads.items() for found in shadow(db, folder, TABLES[table], ids)]


def shadow(db: QuestDB, folder: Path, table: Table, load_ids: Sequence[int]) -> list[ShadowReport]:
    """Puts what some loads brought into a table into its shadow file: the lines of their rows, made anew from the table.

    Nothing for a table that has no file of its own: its rows are in the documents of `b3_captures`. A wide file that is
    not there yet, or was damaged, is made of all that the table holds. Never raises.
    """
    if not load_ids:
        return []
    where = rows.of_loads(load_ids)
    if table.name == CAPTURES.name:
        return [report for report in _documents(db, folder, ALWAYS, where) if report.outcome != "nothing"]
    form = FORMS.get(table.name)
    return [] if form is None else [_guarded(form.file, partial(_brought, db, folder, form, where))]


def refresh(db: QuestDB, folder: Path, window: Window = ALWAYS) -> list[ShadowReport]:
    """Makes the local days of a window (UTC) anew from the tables, in all files: missing lines come, others go.

    Lines of a day of which the table holds nothing any more stay: a retention may have taken its rows away. Never raises.
    """
    wide = [_guarded(form.file, partial(_renewed, db, folder, form, window)) for form in FORMS.values()]
    return [*wide, *_documents(db, folder, window)]


def _guarded(file: str, work: Callable[[], ShadowReport]) -> ShadowReport:
    try:
        return work()
    except (B3Error, OSError) as error:
        return ShadowReport(file, "failed", reason=str(error))
    except Exception as error:  # a defect of ours must not stop a load either
        return ShadowReport(file, "failed", reason=f"It ended with {type(error).__name__}: {error}. Please report it.")


def _brought(db: QuestDB, folder: Path, form: Form, where: Condition) -> ShadowReport:
    with alone(folder) as held:  # also while the table is read: else an older state could be written over a newer one
        moments = rows.moments(db, form, where)
        if not moments:
            return ShadowReport(form.file, "nothing")
        lines = _lines(held, form)
        if lines is None:
            return _write(held, form, {}, rows.gather(db, form, ALWAYS))
        window = rows.span(min(moments).date(), max(moments).date())
        gathered = rows.gather(db, form, window, moments.__contains__)
        return _write(held, form, {key: line for key, line in lines.items() if key[0] not in moments}, gathered)


def _renewed(db: QuestDB, folder: Path, form: Form, window: Window) -> ShadowReport:
    with alone(folder) as held:
        lines = _lines(held, form)
        first = None if window.start is None or lines is None else to_local(window.start).date()
        last = None if window.end is None or lines is None else to_local(window.end - _MICROSECOND).date()

        def wanted(line: datetime) -> bool:
            return (first is None or line.date() >= first) and (last is None or line.date() <= last)

        gathered = rows.gather(db, form, rows.span(first, last), wanted)
        days = {moment.date() for moment, _tenor in gathered.lines}
        kept = {key: line for key, line in (lines or {}).items() if key[0].date() not in days or not wanted(key[0])}
        return _write(held, form, kept, gathered)


def _lines(held: Folder, form: Form) -> Lines | None:
    """The lines of the file as it is; None when there is none, or only a damaged one, which is then moved aside."""
    data = held.read(form.file)
    if data is None:
        return None
    try:
        return lines_of(form, data)
    except Damaged:
        held.set_aside(form.file)
        return None


def _write(held: Folder, form: Form, kept: Lines, gathered: Gathered) -> ShadowReport:
    lines = kept | gathered.lines
    outcome = "nothing"
    if lines:
        outcome = "written" if held.put(form.file, file_of(form, lines)) else "unchanged"
    held_rows = sum(part.num_rows for part in gathered.held)
    return ShadowReport(form.file, outcome, held_rows, gathered.beyond, tuple(held.damaged), _remark(held))


def _documents(db: QuestDB, folder: Path, window: Window, where: Condition | None = None) -> list[ShadowReport]:
    return [
        _guarded(kind.file, partial(_received, db, folder, endpoint, window, where))
        for endpoint, kind in DOCUMENT_KINDS.items()
    ]


def _received(db: QuestDB, folder: Path, endpoint: str, window: Window, where: Condition | None) -> ShadowReport:
    """Each document as a file of its own where the kind has older ones, and the newest of all as the current file.

    A composed one is only ever the current file. Beyond the form are documents that do not prove themselves, and older ones of a kind that has none.
    """
    kind = DOCUMENT_KINDS[endpoint]
    with alone(folder) as held:
        kept = written = beyond = 0
        newest = rows.newest_document(db, endpoint)
        for document in rows.documents(db, endpoint, window, where):
            data = document.data()
            held_here = data is not None and (kind.history is not None or (newest and newest.ts == document.ts))
            kept, beyond = kept + bool(held_here), beyond + (not held_here)
            if data is not None and kind.history is not None:
                written += _put(held, kind, past_name(document.ts), data)
        found = kept or beyond or where is None or (newest is not None and newest.feed == COMPOSED)
        current = newest.data() if newest and found else None
        if current is None:
            return ShadowReport(kind.file, "nothing", beyond=beyond)
        written += _put(held, kind, kind.file, current)
        outcome = "written" if written else "unchanged"
        return ShadowReport(kind.file, outcome, kept, beyond, tuple(held.damaged), _remark(held))


def _put(held: Folder, kind: Kind, name: str, data: bytes) -> bool:
    """Puts a document in place; what stood there and is none of its kind is moved aside."""
    before = held.read(name)
    if before is not None and before != data and not _is_document(kind, before):
        held.set_aside(name)
    return held.put(name, data)


def _is_document(kind: Kind, data: bytes) -> bool:
    try:
        return any(chunk.records.num_rows for chunk in parsed(kind, data, CAPTURES))
    except FileRejected:
        return False


def past_name(ts: datetime) -> str:
    """What a capture of that moment (naive UTC) is called among the older ones: no two moments have one name."""
    local = to_local(ts)
    second = f"_{local:%f}" if local.microsecond else ""
    again = "" if to_utc(local) == ts else "_2"  # the clocks were put back over it
    return f"{HISTORY_FOLDER}/{Path(CAPTURE.file).stem}_{local:%Y%m%d_%H%M%S}{second}{again}.json"


def _remark(held: Folder) -> str | None:
    if not held.damaged:
        return None
    return f"What was no file of ours was moved aside, and made anew: {', '.join(held.damaged)}."
