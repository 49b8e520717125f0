"""What comes in: a payload with its name, hash and parser, and the survey of a legacy folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.parsing.kinds import LEGACY_KINDS, Kind
from b3_pipeline.parsing.records import FileRejected

_BLOCK = 1 << 20
HISTORY_FOLDER = "historico"
#: The largest payload that is kept in memory; a capture has 2 KB, a settlement report 70 KB.
WHOLE_LIMIT = 8 << 20


class PayloadChanged(B3Error):
    """A file was not the same when it was read again."""


@dataclass(frozen=True)
class Payload:
    """Bytes that have a name, known by their SHA-256; `size` in bytes. What is appended to the file later is no part."""

    name: str
    path: Path
    kind: Kind
    sha256: str
    size: int
    data: bytes | None = field(default=None, repr=False)  # all of it, where it is small and read whole

    def open(self, progress: Callable[[int], None] = lambda _bytes: None) -> BinaryIO:
        """A stream over exactly these bytes: at its end it raises PayloadChanged if they are others by now.

        `progress` is told the bytes of each read. Raises FileRejected when a payload of a kind that is read `whole` is
        larger than anything of its kind can be.
        """
        if self.data is not None:
            progress(self.size)
            return io.BytesIO(self.data)
        if self.kind.whole:
            raise FileRejected(
                f"{self.size >> 20} MiB is too large for {self.kind.what}: at most {WHOLE_LIMIT >> 20} MiB."
            )
        return self.raw(progress)

    def raw(self, progress: Callable[[int], None] = lambda _bytes: None) -> BinaryIO:
        """As `open`, of any size and kind."""
        return io.BytesIO(self.data) if self.data is not None else io.BufferedReader(_Verified(self, progress), _BLOCK)


class _Verified(io.RawIOBase):
    """Reads a payload and proves, at its end, that it was the payload."""

    def __init__(self, payload: Payload, progress: Callable[[int], None]) -> None:
        self._payload, self._left, self._progress = payload, payload.size, progress
        self._file = payload.path.open("rb")
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        block = self._file.read(min(len(buffer), self._left))
        self._hash.update(block)
        self._left -= len(block)
        self._progress(len(block))
        if not block and (self._left or self._hash.hexdigest() != self._payload.sha256):
            raise PayloadChanged(f"{self._payload.name} changed while it was read; run the command again.")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._file.close()
        super().close()


def payload(path: Path, kind: Kind, name: str | None = None) -> Payload:
    """The payload that a file is now. Raises UsageError when it cannot be read."""
    digest, size, parts = hashlib.sha256(), 0, []
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
                if kind.whole and size <= WHOLE_LIMIT:
                    parts.append(block)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    data = b"".join(parts) if kind.whole and size <= WHOLE_LIMIT else None
    return Payload(name or path.name, path, kind, digest.hexdigest(), size, data)


@dataclass(frozen=True)
class Found:
    """A file of a legacy folder: a payload, or the reason why there is none."""

    name: str
    kind: Kind | None
    payload: Payload | None = None
    outcome: str | None = None  # missing, empty, rejected or ignored, where there is nothing to load
    reason: str | None = None

    @property
    def loadable(self) -> Payload | None:
        """The payload, where there is something in it."""
        return None if self.outcome else self.payload


def survey(folder: Path) -> list[Found]:
    """The files of a legacy folder, in the order in which they load: by FORMATS §3, captures by their timestamp.

    Those that belong to no kind come last. Of two captures of one moment the current file comes first, so it is the
    one whose layout is kept. Raises UsageError when the folder is none.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give the legacy collectors' folder (B3_LEGACY_DIR).")
    found = []
    for kind in LEGACY_KINDS:
        files = [_look(folder, kind.file, kind)]
        if kind.history is not None:
            past = folder.glob(f"{HISTORY_FOLDER}/{kind.history}")
            files = sorted([*files, *(_look(folder, p.relative_to(folder).as_posix(), kind) for p in past)], key=_age)
        found += files
    return found + _ignored(folder, {f.name for f in found})


def _look(folder: Path, name: str, kind: Kind) -> Found:
    path = folder / name
    if not path.exists() and not path.is_symlink():
        return Found(name, kind, outcome="missing", reason="not in the folder")
    if not path.is_file():  # opening a pipe would wait for ever
        return Found(name, kind, outcome="rejected", reason="it is no file, or a link that leads nowhere")
    try:
        content = payload(path, kind, name)
        blank = _blank(content)
    except (UsageError, OSError) as error:
        return Found(name, kind, outcome="rejected", reason=str(error))
    return Found(name, kind, content, *(("empty", "nothing in it") if blank else ()))


def _blank(content: Payload) -> bool:
    with content.raw() as stream:
        while block := stream.read(_BLOCK):
            if block.strip(b" \t\r\n\xef\xbb\xbf"):
                return False
    return True


def _age(file: Found) -> tuple[str, bool, str]:
    """When a capture was made, as far as one can tell; then the current one, then by name."""
    moment = None
    if file.payload and file.payload.data is not None and file.payload.kind.moment is not None:
        moment = file.payload.kind.moment(file.payload.data)
    return str(moment or ""), file.name.startswith(HISTORY_FOLDER), file.name


def _ignored(folder: Path, known: set[str]) -> list[Found]:
    names = [p.name + "/" * p.is_dir() for p in folder.iterdir() if p.name != HISTORY_FOLDER]
    names += [p.relative_to(folder).as_posix() for p in folder.glob(f"{HISTORY_FOLDER}/*")]
    return [Found(n, None, outcome="ignored", reason="no file of ours") for n in sorted(names) if n not in known]
