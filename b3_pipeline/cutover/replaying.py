"""What the legacy folder lacks of what is stored, and writing it there: for a rollback, and for nothing else.

The folder's own files are the legacy side's: what they say stands, what they lack is added. A file is replaced whole, and
only while it is what it was when it was read.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from b3_pipeline.choosing import COMPOSED
from b3_pipeline.composing import SETTLED_ON
from b3_pipeline.cutover import merging
from b3_pipeline.cutover.folder_backup import Stamp
from b3_pipeline.cutover.merging import Lack
from b3_pipeline.errors import B3Error
from b3_pipeline.loading.payloads import HISTORY_FOLDER
from b3_pipeline.parsing.capture import INSTRUMENTS
from b3_pipeline.parsing.kinds import Kind
from b3_pipeline.parsing.records import EmptyFile, FileRejected
from b3_pipeline.quality.documents import CAPTURES, Document, parsed
from b3_pipeline.quality.stored import condition, count, during, of_feed, one_of, stretches
from b3_pipeline.questdb.client import QuestDB, named
from b3_pipeline.sessions import ALWAYS, session_of, to_local
from b3_pipeline.shadow import rows
from b3_pipeline.shadow.forms import FORMS, Form
from b3_pipeline.shadow.writing import DOCUMENT_KINDS, past_name

#: What of each file's tables its form has no place for, for people.
BEYOND: Mapping[str, str] = {
    "ajustes_b3.csv": "contracts beyond the front one, WDO, WIN and IND, rates and open interest",
    "indicadores_b3.csv": "indicators that the file never had",
    "superficie_volatilidade_b3.csv": "surfaces and tenors that its lines cannot hold",
    "dxy_coleta.csv": "times other than 08:50, 08:55 and 09:00",
    "ultimo_dado.json": "composed captures of sessions that have another capture",
    "gamma.json": "all levels but the newest",
}


class LegacyFileUnreadable(B3Error):
    """A file of the legacy folder is not what its name says; nothing is written over it."""


class CollectorsWrite(B3Error):
    """A file of the legacy folder was changed while we worked on it."""


@dataclass(frozen=True)
class FilePlan:
    """A file of the legacy folder: its name there, its SHA-256 as it was read (None: there was none), and what it is to be."""

    name: str
    before: str | None
    data: bytes

    @property
    def changes(self) -> bool:
        """Whether it is another one than it was."""
        return _sha256(self.data) != self.before


@dataclass(frozen=True)
class Part:
    """What came of looking at one of the files: what is to be written for it, and in numbers what that is.

    `rows` go into the file, `added`, `filled` and `removed` are its lines (or documents, or records), `beyond` rows stay in
    the tables only, in `stands` keys the file keeps another value than the one that readers of the tables get.
    """

    file: str
    files: tuple[FilePlan, ...] = ()
    rows: int = 0
    added: int = 0
    filled: int = 0
    beyond: int = 0
    stands: int = 0
    removed: int = 0

    @property
    def changed(self) -> tuple[FilePlan, ...]:
        """The files that are to be written."""
        return tuple(plan for plan in self.files if plan.changes)

    def numbers(self) -> dict[str, int]:
        """Its part of a log."""
        return {name: getattr(self, name) for name in ("rows", "added", "filled", "removed", "beyond", "stands")}


def plan(db: QuestDB, folder: Path) -> Iterator[Part]:
    """Looks at the six files, one after another. Raises LegacyFileUnreadable, QuestDBError, OSError."""
    for form in FORMS.values():
        yield _wide(db, folder, form)
    for endpoint, kind in DOCUMENT_KINDS.items():
        yield _documents(db, folder, endpoint, kind)


def _wide(db: QuestDB, folder: Path, form: Form) -> Part:
    data = _read(folder / form.file)
    try:
        lack = Lack.of(form, None if data is None else merging.read(form, data))
    except EmptyFile:
        lack = Lack.of(form, None)
    except FileRejected as error:
        raise LegacyFileUnreadable(
            f"{form.file} in the legacy folder cannot be read: {error}. Put it right first."
        ) from None
    for stretch, found in stretches(db, form.table, rows.ROWS_AT_ONCE, ALWAYS, rows.wide_rows()):
        if found:
            columns = (*form.table.parsed, form.table.column("feed"))
            schema = form.table.arrow_schema(columns)
            where = during(form.table, stretch) & rows.wide_rows()
            query = named("select {columns} from {t} where ", columns=schema.names, t=form.table.name)
            lack.add(db.arrow(query + where.text, *where.values, schema=schema))
    merged = FilePlan(form.file, _known(data), lack.merged())
    files = (merged,) if merged.data else ()
    return Part(form.file, files, lack.rows.num_rows, len(lack.added), len(lack.filled), lack.beyond, lack.stands)


def _documents(db: QuestDB, folder: Path, endpoint: str, kind: Kind) -> Part:
    return _captures(db, folder, endpoint, kind) if kind.history else _newest_only(db, folder, endpoint, kind)


def _newest_only(db: QuestDB, folder: Path, endpoint: str, kind: Kind) -> Part:
    """A file that only ever holds the newest document."""
    before, newest = _read(folder / kind.file), rows.newest_document(db, endpoint)
    where = condition("{e} = %s", endpoint, e="endpoint") & one_of("feed", rows.DOCUMENT_FEEDS)
    stored, current = count(db, CAPTURES, where), None if before is None else _moment(kind, before)
    data = newest.data() if newest else None
    if newest is None or data is None or (current is not None and current >= newest.ts):
        return Part(kind.file, beyond=stored - (newest is not None and current == newest.ts))
    return Part(kind.file, (FilePlan(kind.file, _known(before), data),), 1, 1, beyond=stored - 1)


def _captures(db: QuestDB, folder: Path, endpoint: str, kind: Kind) -> Part:
    """Captures that the folder lacks, each as a file of its own, and the newest of all as the current file.

    Of a session in which the legacy collector took none, the last composed one stands in, as it did for readers.
    """
    before = _read(folder / kind.file)
    current, past = None if before is None else _moment(kind, before), _past(folder, kind)
    there = {*past, *([current] if current else [])}
    missing: dict[datetime, bytes] = {}
    sessions, beyond = {_session(ts) for ts in there}, 0
    for document in rows.documents(db, endpoint, ALWAYS):
        sessions.add(_session(document.ts))
        data = document.data()
        beyond += data is None
        if data is not None and document.ts not in there:
            missing[document.ts] = data
    stand_ins, others = _stand_ins(db, sessions)
    missing |= stand_ins
    files: list[FilePlan] = []
    for ts, data in missing.items():
        files.append(_older(folder, kind, ts, data, {plan.name for plan in files}))
    newest = max((*missing, *past), default=None)
    if newest is not None and (current is None or newest > current):
        if before is not None and current is not None and current not in past:  # what goes out of its place is kept
            files.append(_older(folder, kind, current, before, {plan.name for plan in files}))
        data = missing[newest] if newest in missing else (folder / past[newest]).read_bytes()
        files.append(FilePlan(kind.file, _known(before), data))
    return Part(kind.file, tuple(files), len(missing), len(files), beyond=beyond + others)


def _older(folder: Path, kind: Kind, ts: datetime, data: bytes, taken: Collection[str]) -> FilePlan:
    """The file of an older capture, by its own name unless another one is there under it.

    What is there and is no capture (torn, empty) is replaced: the backup of the folder has it.
    """
    path = Path(past_name(ts))
    others = (path.with_stem(f"{path.stem}_{number}") for number in itertools.count(2))
    names = (str(name) for name in itertools.chain([path], others))
    found = ((name, _read(folder / name)) for name in names if name not in taken)
    name, there = next((name, there) for name, there in found if there is None or _moment(kind, there) is None)
    return FilePlan(name, _known(there), data)


def _past(folder: Path, kind: Kind) -> dict[datetime, str]:
    """The older captures of a folder, by moment; what is none is left alone."""
    paths = folder.glob(f"{HISTORY_FOLDER}/{kind.history}")
    found = ((_moment(kind, path.read_bytes()), path.relative_to(folder).as_posix()) for path in sorted(paths))
    return {moment: name for moment, name in found if moment is not None}


def _moment(kind: Kind, data: bytes) -> datetime | None:
    """Of when a document is by its own account, naive UTC; None when it does not say, or is none."""
    try:
        chunks = parsed(kind, data, CAPTURES)
    except FileRejected:
        return None
    return next((ts for chunk in chunks for ts in chunk.records.column("ts").to_pylist()), None)


def _stand_ins(db: QuestDB, sessions: set[date]) -> tuple[dict[datetime, bytes], int]:
    """By moment the last composed capture of each session that is none of these, and how many others there are."""
    of_session: dict[date, Document] = {}
    found = 0
    for document in _composed(db):
        found += 1
        if _session(document.ts) not in sessions:
            of_session[_session(document.ts)] = document
    given = {document.ts: stand_in(document.data()) for document in of_session.values()}
    taken = {ts: data for ts, data in given.items() if data is not None}
    return taken, found - len(taken)


def _composed(db: QuestDB) -> Iterator[Document]:
    """The composed captures, in time's order, in bounded memory."""
    for stretch, found in stretches(db, CAPTURES, rows.DOCUMENTS_AT_ONCE, ALWAYS, of_feed(COMPOSED)):
        if found:
            where = during(CAPTURES, stretch) & of_feed(COMPOSED)
            query = named("select ts, endpoint, payload, sha256, feed, load_id from {c} where ", c=CAPTURES.name)
            for row in db.query(query + where.text + named(" order by ts"), *where.values):
                yield Document(*row, file=None)


def stand_in(composed: bytes | None) -> bytes | None:
    """A composed capture in the form of the legacy collector's, which does not say which session a price is of."""
    if composed is None:
        return None
    document = json.loads(composed)
    for name in INSTRUMENTS:
        document.get(name, {}).pop(SETTLED_ON, None)
    return (json.dumps(document, ensure_ascii=False, indent=2) + "\n").encode()


def write(folder: Path, part: Part, step: Callable[[str], None]) -> None:
    """Puts the files of a part in place, the current one last. `step` is told each that is written.

    Raises CollectorsWrite when one was changed since it was read, OSError: then that file is as it was.
    """
    if any(plan.name.startswith(HISTORY_FOLDER) for plan in part.changed):
        (folder / HISTORY_FOLDER).mkdir(exist_ok=True)
    for plan in part.changed:
        _put(folder, plan)
        step(plan.name)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _require_untouched(folder: Path, plan: FilePlan) -> None:
    """Raises CollectorsWrite for a file that is not what it was when it was read, or is being written just now."""
    path = folder / plan.name
    stamp = Stamp.of(path)
    known = _known(_read(path))
    if known not in (plan.before, _sha256(plan.data)) or Stamp.of(path) != stamp:
        raise CollectorsWrite(
            f"{plan.name} was changed while this command worked on it, so the legacy collectors run still. Stop them, then "
            "`b3 cutover rollback --collectors-stopped` goes on where it stopped."
        )


def _put(folder: Path, plan: FilePlan) -> None:
    """Puts a file in place whole, with the rights of the one before, or of its folder: the collectors write on in it."""
    path = folder / plan.name
    like = (path if path.exists() else path.parent).stat()
    draft = path.with_name(f".{path.name}.draft-{secrets.token_hex(4)}")
    try:
        with draft.open("xb") as stream:
            stream.write(plan.data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(draft, like.st_mode & 0o666)
        with suppress(PermissionError):
            os.chown(draft, like.st_uid, like.st_gid)
        _require_untouched(folder, plan)  # only now: writing a draft takes long
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _known(data: bytes | None) -> str | None:
    return None if data is None else _sha256(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _session(moment: datetime) -> date:
    return session_of(to_local(moment).date())
