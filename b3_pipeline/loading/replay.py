"""Corrected rejects: the texts that a person is given to edit, and the payloads that their corrections are.

A correction is read by the parser of the payload that the record came from, and is a load of its own.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from b3_pipeline.credentials import write_private
from b3_pipeline.errors import UsageError
from b3_pipeline.loading.folder import load_all
from b3_pipeline.loading.ledger import Load
from b3_pipeline.loading.load import Loader, LoadReport
from b3_pipeline.loading.payloads import Found, Payload
from b3_pipeline.loading.quarantine import PREFIX, Entry, Quarantine
from b3_pipeline.parsing.json_text import Array, Object, decode, text_of
from b3_pipeline.parsing.kinds import LEGACY_KINDS, Kind, Parsing
from b3_pipeline.parsing.records import COLUMN, LINE, Chunk, Chunks, FileRejected, empty_records
from b3_pipeline.tables import TABLES, Table

FIELDS = ("ids", "file", "line", "wrong", "header", "original", "corrected")
_FOLDER = "quarantine/corrections"
_EXPORT_AGAIN = "Export again, and correct the new file."


@dataclass(frozen=True)
class Item:
    """One text to correct, with all that was rejected in it: a line of a CSV, or a whole JSON document.

    `corrected` is what a person edits; everything else says what it is about.
    """

    ids: tuple[str, ...]
    file: str
    line: int | None
    wrong: tuple[str, ...]
    header: str | None
    original: str
    corrected: str


@dataclass(frozen=True)
class Correction:
    """A payload of corrected records, and the entries that it takes over."""

    payload: Payload
    entries: tuple[Entry, ...]
    records: Mapping[int, Sequence[str]] | None = None  # by line, those that count; None: the payload as a whole


def kind_of(entry: Entry) -> Kind | None:
    """The kind of legacy file that a reject came from; None where it came from something else."""
    kinds = [k for k in LEGACY_KINDS if k.feed == entry.feed and entry.table in k.tables]
    name = Path(_base(entry.file)).name
    return next((k for k in kinds if k.file == name), kinds[0] if kinds else None)


def items(quarantine: Quarantine, entries: Iterable[Entry]) -> tuple[list[Item], Counter[str]]:
    """The texts to correct, in the entries' order; and how many entries cannot be corrected here, by why."""
    groups: dict[tuple[str, int | None, str], list[Entry]] = defaultdict(list)
    texts: dict[str, str | None] = {}
    left_out: Counter[str] = Counter()
    for entry in entries:
        kind = kind_of(entry)
        if kind is None:
            left_out[f"{entry.file}: load a corrected file; what is stored already counts as duplicate"] += 1
        elif not kind.whole and entry.header is None:
            left_out[
                f"{entry.file}: rejected by an older release; correct it in a copy of the folder and load that"
            ] += 1
        else:
            if kind.whole and entry.sha256 not in texts:
                texts[entry.sha256] = _document(quarantine, entry.sha256)
            text = texts[entry.sha256] if kind.whole else entry.text
            if text is None:
                left_out[f"{entry.file}: no copy of the document is kept; correct the file and load it"] += 1
            else:
                groups[entry.sha256, entry.line, text].append(entry)
    return [_item(text, group) for (_, _, text), group in groups.items()], left_out


def _item(text: str, entries: Sequence[Entry]) -> Item:
    first = entries[0]
    wrong = dict.fromkeys(
        f"{e.column or 'line'} {'' if e.value is None else repr(e.value)} {e.reason}" for e in entries
    )
    ids = tuple(e.id for e in entries)
    return Item(ids, first.file, first.line, tuple(" ".join(w.split()) for w in wrong), first.header, text, text)


def _document(quarantine: Quarantine, sha256: str) -> str | None:
    """A kept document on one line: between the tokens of JSON a line's end is but white space."""
    kept = quarantine.kept_file(sha256)
    return " ".join(decode(kept.read_bytes()).text.split("\n")).replace("\r", "") if kept else None


def write_items(file: Path, given: Iterable[Item]) -> None:
    """Writes items for a person to edit: `.jsonl` has one a line, `.csv` one a row. Raises UsageError for other names."""
    if file.exists():
        raise UsageError(f"{file} is there already, and may hold corrections: give another name.")
    if file.suffix == ".jsonl":
        with file.open("x", encoding="utf-8") as out:
            out.writelines(_json_line(item) + "\n" for item in given)
    elif file.suffix == ".csv":
        with file.open("x", encoding="utf-8", newline="") as out:
            rows = csv.writer(out, lineterminator="\n")
            rows.writerow(FIELDS)
            for item in given:
                rows.writerow([" ".join(item.ids), item.file, item.line, "; ".join(item.wrong), *_texts(item)])
    else:
        raise UsageError(f"{file.name}: give a name that ends in .jsonl or .csv.")


def _texts(item: Item) -> tuple[str | None, str, str]:
    return item.header, item.original, item.corrected


def _json_line(item: Item) -> str:
    """An item as one line of JSON; a document stands in it as it is, and not as a text full of backslashes."""
    about = {"ids": item.ids, "file": item.file, "line": item.line, "wrong": item.wrong}
    if item.header is not None:
        texts = {"header": item.header, "original": item.original, "corrected": item.corrected}
        return json.dumps({**about, **texts}, ensure_ascii=False)
    return f'{json.dumps(about, ensure_ascii=False)[:-1]}, "original": {item.original}, "corrected": {item.corrected}}}'


def read_items(file: Path) -> list[Item]:
    """The items of a file that a person has edited. Raises UsageError, naming the line, for what is none."""
    if file.suffix not in (".jsonl", ".csv"):
        raise UsageError(f"{file.name}: give the .jsonl or .csv file that `b3 quarantine export` wrote.")
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {error}.") from None
    return list(_from_json(file, text) if file.suffix == ".jsonl" else _from_csv(file, text))


def _from_json(file: Path, text: str) -> Iterator[Item]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            given = decode(line.encode()).root
        except FileRejected as error:
            raise UsageError(f"{file.name}, line {number}: {error}.") from None
        ids = given.get("ids") if isinstance(given, Object) else None
        if not isinstance(given, Object) or not isinstance(ids, Array) or not {"original", "corrected"} <= set(given):
            raise UsageError(
                f"{file.name}, line {number} is no item of an export: ids, original or corrected is missing."
            )
        original, corrected = (text_of(given.get(name)) for name in ("original", "corrected"))
        yield Item(tuple(map(text_of, ids)), text_of(given.get("file")), None, (), None, original, corrected)


def _from_csv(file: Path, text: str) -> Iterator[Item]:
    first = text.partition("\n")[0]
    separator = ";" if first.count(";") > first.count(",") else ","  # a spreadsheet's own, in Brazil
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    if missing := {"ids", "original", "corrected"} - set(rows.fieldnames or ()):
        raise UsageError(f"{file.name} is no export: it lacks {', '.join(sorted(missing))}.")
    for row in rows:
        ids, texts = tuple((row["ids"] or "").split()), (row["original"] or "", row["corrected"] or "")
        yield Item(ids, row.get("file") or "", None, (), None, *texts)


def corrections(quarantine: Quarantine, given: Sequence[Item]) -> list[Correction]:
    """The payloads that corrected items are: one for the lines of each file, one for each document.

    What an item is about is taken from the quarantine by its ids, never from the edited file. Raises UsageError for ids
    that are not there, for an item whose original is another than the quarantine's, and for what is no single line.
    """
    wanted = {id for item in given for id in item.ids}
    found = {entry.id: entry for entry in quarantine.entries() if entry.id in wanted}
    lines: dict[tuple[str, str], list[tuple[Item, list[Entry]]]] = defaultdict(list)
    made: list[Correction] = []
    for item in given:
        entries = _entries(quarantine, item, found)
        if (kind := kind_of(entries[0])) and kind.whole:
            made.append(_corrected_document(kind, item, entries, quarantine))
        else:
            lines[entries[0].sha256, entries[0].header or ""].append((item, entries))
    return [*(_corrected_lines(header, group) for (_, header), group in lines.items()), *made]


def _entries(quarantine: Quarantine, item: Item, found: Mapping[str, Entry]) -> list[Entry]:
    """The rejects that an item is about, if they are what was exported."""
    entries = [found[id] for id in item.ids if id in found]
    if not entries or len(entries) < len(item.ids):
        raise UsageError(f"The quarantine has no {', '.join(set(item.ids) - set(found)) or 'such id'}. {_EXPORT_AGAIN}")
    [now, *others], _ = items(quarantine, entries)
    if others or now.original != item.original:
        raise UsageError(f"{entries[0].id}: `original` is not what was exported, or no longer so. {_EXPORT_AGAIN}")
    return entries


def _corrected_document(kind: Kind, item: Item, entries: Sequence[Entry], quarantine: Quarantine) -> Correction:
    """A corrected document counts as a whole: it replaces the one that was received, in all tables that it feeds."""
    original = entries[0].sha256
    same = tuple(e for e in quarantine.open_entries() if e.sha256 == original and kind_of(e) == kind)
    data = item.corrected.encode()
    return Correction(_payload(entries[0], kind, data, hashlib.sha256(data).hexdigest()), same)


def _corrected_lines(header: str, group: Sequence[tuple[Item, list[Entry]]]) -> Correction:
    """Corrected lines under the header of their file, of which only the records count that were rejected."""
    first = group[0][1][0]
    kind = kind_of(first)
    assert kind is not None, "only what has a kind is exported"
    records = {number: sorted({e.record or "" for e in entries}) for number, (_, entries) in enumerate(group, 2)}
    for item, _ in group:
        if not item.corrected.strip() or "\n" in item.corrected or "\r" in item.corrected:
            raise UsageError(f"{item.ids[0]}: `corrected` must be one line. To leave it as it is, take the item out.")
    data = "".join(f"{line}\n" for line in (header, *(item.corrected for item, _ in group))).encode()
    # which records count is part of what the payload is
    sha256 = hashlib.sha256(json.dumps(records).encode() + data).hexdigest()
    entries = tuple(entry for _, entries in group for entry in entries)
    return Correction(_payload(first, _only(kind, records), data, sha256), entries, records)


def _payload(entry: Entry, kind: Kind, data: bytes, sha256: str) -> Payload:
    # A name of its own for each content: two corrections of one file are no two states of one file.
    name = f"{PREFIX}{_base(entry.file)}#{sha256[:8]}"
    return Payload(name, Path(name), kind, sha256, len(data), data)


def _base(file: str) -> str:
    """The name of the file that a correction, or a correction of one, is about."""
    return file.removeprefix(PREFIX).rpartition("#")[0] if file.startswith(PREFIX) else file


def _only(kind: Kind, records: Mapping[int, Sequence[str]]) -> Kind:
    """A kind whose parser gives the chosen records of each line only: the line's others were loaded, and may be newer."""

    def parse(stream: BinaryIO, table: Table) -> Parsing:
        parsing = kind.parse(stream, table)
        return Parsing(_chosen(parsing.chunks, records, table), parsing.ignored)

    return replace(kind, parse=parse)


def _chosen(chunks: Chunks, records: Mapping[int, Sequence[str]], table: Table) -> Chunks:
    left = sum(map(len, records.values()))
    for chunk in chunks:
        lines, columns = (chunk.records.column(name).to_pylist() for name in (LINE, COLUMN))
        is_chosen = [column in records[line] for line, column in zip(lines, columns, strict=True)]
        rejects = [r for r in chunk.rejects if r.line is not None and r.record in records[r.line]]
        left -= sum(is_chosen) + len(rejects)
        yield Chunk(chunk.records.filter(pa.array(is_chosen, pa.bool_())), rejects)
    yield Chunk(empty_records(table), absent=left)


def replay(loader: Loader, correction: Correction) -> list[LoadReport]:
    """Loads a correction into every table that it feeds, and marks as replayed the entries that its loads took over.

    Running it again changes nothing. Raises as `load_all` does.
    """
    _keep(correction, loader.home)
    reports = []
    for name in correction.payload.kind.tables:
        [report] = load_all(loader, [correction.payload], TABLES[name])
        if report.outcome in ("loaded", "unchanged"):
            loader.quarantine.mark_replayed(_taken_over(correction, report.counted), report.counted.load_id)
        reports.append(report)
    return reports


def _taken_over(correction: Correction, load: Load) -> list[Entry]:
    """The entries that a load of their correction has loaded, or rejected anew as its own.

    A load that is older than an entry and has rejects is known, and has not loaded it: the text is the one from before.
    """
    mine = [entry for entry in correction.entries if entry.table == load.table_name]
    return [entry for entry in mine if not load.rejected or entry.load_id < load.load_id]


def _keep(correction: Correction, home: Path) -> None:
    """Keeps a correction in the home, once: parity asks for what every stored record came from.

    `of` is the SHA-256 of the file that was corrected, `number` its place among the corrections of the home.
    """
    content, folder = correction.payload, home / _FOLDER
    place = folder / f"{content.sha256}.json"
    if place.exists():
        return
    assert content.data is not None, "corrections are made in memory"
    kept = {
        "name": content.name,
        "kind": content.kind.name,
        "sha256": content.sha256,
        "of": _origin(correction.entries[0].sha256, folder),
        "number": len(list(folder.glob("*.json"))) + 1,
        "records": correction.records,
        "text": content.data.decode(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_private(place, json.dumps(kept, ensure_ascii=False, indent=1))


def _origin(sha256: str, folder: Path) -> str:
    """The file that a correction, or a correction of one, is about: its SHA-256."""
    corrected = folder / f"{sha256}.json"
    return json.loads(corrected.read_text("utf-8")).get("of", sha256) if corrected.exists() else sha256


def with_corrections(files: Sequence[Found], home: Path) -> list[Found]:
    """The files with every correction that was replayed in the home, each as the payload that it was.

    Among each other corrections keep their order. Those of a file that is still what it was follow it; those of one that
    has changed since, or is gone, come before all: what a person corrected in the file itself is newer.
    """
    unchanged = {file.payload.sha256 for file in files if file.payload}
    kept = sorted(map(_kept, (home / _FOLDER).glob("*.json")), key=lambda k: (k.number, k.found.name))
    early = [correction.found for correction in kept if correction.of not in unchanged]
    return [*early, *files, *(correction.found for correction in kept if correction.of in unchanged)]


@dataclass(frozen=True)
class _Kept:
    """A correction as it is kept, under the kind that it was made for; see `_keep`."""

    found: Found
    of: str
    number: int


def _kept(path: Path) -> _Kept:
    given = json.loads(path.read_text("utf-8"))
    kind = next(k for k in LEGACY_KINDS if k.name == given["kind"])
    records, data = given["records"], given["text"].encode()
    reader = kind if records is None else _only(kind, {int(line): names for line, names in records.items()})
    content = Payload(given["name"], path, reader, given["sha256"], len(data), data)
    # those of an early release do not say what they are of
    return _Kept(Found(content.name, kind, content), given.get("of", ""), given.get("number", 0))
