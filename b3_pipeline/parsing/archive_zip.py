"""What is inside B3's zips: found, chosen and streamed with a bound on what is really unpacked."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from b3_pipeline.parsing.records import FileRejected

#: What one file may unpack to in all, its inner zips included; B3's own reports have about 4 MB.
MAX_BYTES = 64 << 20
MAX_ENTRIES = 100
#: B3 wraps some of its zips in another zip, never deeper.
MAX_LEVELS = 2
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_SIGNATURE = b"PK"
_BLOCK = 1 << 16
# All that zipfile and zlib raise on what is damaged or made up: the types are not documented.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
)


@contextmanager
def report_xml(stream: BinaryIO) -> Iterator[BinaryIO]:
    """The one XML of a seekable stream: the stream itself, or the newest XML in its zip or its zip in a zip.

    Of several, B3 means the last by name to supersede the others: a name ends in the time of its creation.
    Raises `FileRejected` when there is none, for a broken, encrypted or oversized zip, also while it is being read.
    """
    if _starts_with(stream, _SIGNATURE):
        with zipped_file(stream, ".xml") as member:
            yield member
    else:
        yield cast(BinaryIO, _Bounded(stream, _Budget(MAX_BYTES)))


@contextmanager
def zipped_file(stream: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    """The last file by name with that suffix (`.xml`) in a seekable zip, or in its zip.

    Raises `FileRejected` as `report_xml` does, and for what is no zip.
    """
    with _member(stream, _Budget(MAX_BYTES), MAX_LEVELS, suffix) as member:
        yield member


def zip_names(stream: BinaryIO) -> list[str]:
    """The names of the files in a seekable zip. Raises `FileRejected` for what is no whole zip, or has too many."""
    with _opened(stream) as archive:
        return [entry.filename for entry in archive.infolist() if not entry.is_dir()]


def verify_zip(stream: BinaryIO, limit: int) -> None:
    """Unpacks all of a seekable zip, and keeps nothing. Raises `FileRejected`: damaged, or more than `limit` bytes."""
    budget = _Budget(limit)
    with _opened(stream) as archive:
        for entry in archive.infolist():
            with _unpacking(archive, _readable(entry)) as unpacked:
                member = _Bounded(unpacked, budget)
                while member.read(_BLOCK):
                    pass


class _Budget:
    """How many bytes may still be unpacked, whatever a header promises."""

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit

    def spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise FileRejected(f"holds more than {self.limit >> 20} MiB: no report does")


class _Bounded(io.RawIOBase):
    """A stream whose bytes are counted, and whose ways to be broken are one."""

    def __init__(self, source: BinaryIO, budget: _Budget) -> None:
        super().__init__()
        self._source = source
        self._budget = budget

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        size = self._budget.left + 1 if size is None or size < 0 else size
        try:
            data = self._source.read(size)
        except _BROKEN as error:
            raise FileRejected(f"the zip is damaged: {error}") from None
        self._budget.spend(len(data))
        return data


@contextmanager
def _member(stream: BinaryIO, budget: _Budget, levels: int, suffix: str) -> Iterator[BinaryIO]:
    """The file with that suffix in a zip that may hold `levels` - 1 more levels of zips."""
    archive = _opened(stream)
    with archive:
        entry = _chosen(archive, levels, suffix)
        with _unpacking(archive, entry) as unpacked:
            member = cast(BinaryIO, _Bounded(unpacked, budget))
            if _suffix(entry) == suffix:
                yield member
            else:
                with _member(io.BytesIO(member.read()), budget, levels - 1, suffix) as inner:
                    yield inner


def _unpacking(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> BinaryIO:
    try:
        return cast(BinaryIO, archive.open(entry))
    except _BROKEN as error:
        raise FileRejected(f"the zip is damaged: {error}") from None


def _opened(stream: BinaryIO) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(stream)
    except _BROKEN as error:
        raise FileRejected(f"the zip is cut off or damaged: {error}") from None
    if len(archive.infolist()) > MAX_ENTRIES:
        raise FileRejected(f"the zip has more than {MAX_ENTRIES} entries: no report has")
    return archive


def _chosen(archive: zipfile.ZipFile, levels: int, wanted: str) -> zipfile.ZipInfo:
    """The last file by name that has the suffix, or the last zip where there is none."""
    entries = sorted(archive.infolist(), key=lambda entry: (PurePosixPath(entry.filename).name, entry.filename))
    for suffix in (wanted, ".zip") if levels > 1 else (wanted,):
        for entry in reversed(entries):
            if _suffix(entry) == suffix:
                return _readable(entry)
    names = ", ".join(repr(entry.filename) for entry in entries[:3])
    kind = wanted.removeprefix(".").upper()
    raise FileRejected(f"the zip holds no {kind}, but {names}" if names else "the zip is empty: B3 has no such report")


def _readable(entry: zipfile.ZipInfo) -> zipfile.ZipInfo:
    if entry.flag_bits & 0x1:
        raise FileRejected(f"{entry.filename!r} in the zip is encrypted: B3's reports are not")
    if entry.compress_type not in _METHODS:
        raise FileRejected(f"{entry.filename!r} in the zip is compressed in a way that B3 does not use")
    return entry


def _suffix(entry: zipfile.ZipInfo) -> str:
    return PurePosixPath(entry.filename).suffix.lower()


def _starts_with(stream: BinaryIO, signature: bytes) -> bool:
    start = stream.tell()
    found = stream.read(len(signature)) == signature
    stream.seek(start)
    return found
