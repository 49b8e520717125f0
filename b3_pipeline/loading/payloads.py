"""What comes in: a payload with its name, hash and parser, and the survey of a folder of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from b3_pipeline.errors import B3Error, UsageError
from b3_pipeline.parsing.kinds import LEGACY_KINDS, Kind
from b3_pipeline.parsing.records import FileRejected

_BLOCK = 1 << 20
HISTORY_FOLDER = "historico"


class PayloadChanged(B3Error):
    """A file was not the same when it was read again."""


@dataclass(frozen=True)
class Sealed:
    """A payload without its secrets: references stand in their places.

    One in which they cannot be told from the rest has a `fault`, and its `data` is all of it, encrypted.
    """

    data: bytes = field(repr=False)
    fault: str | None = None


#: Takes the secrets out of a payload: its bytes, and the member of its records that holds one.
Seal = Callable[[bytes, str], Sealed]


@dataclass(frozen=True)
class Payload:
    """Bytes that have a name, known by their SHA-256; `size` in bytes. What is appended to the file later is no part.

    Hash and size are the file's; where a kind has secrets, `data` is what sealing left. `opened` gives the bytes where
    they do not lie in `path` as they are. `replaces` are the hashes of those states of the file that this one, when it
    was loaded before, takes the place of again: None for any, because it is what the source says now; none at all where
    a later state has been given already.
    """

    name: str
    path: Path
    kind: Kind
    sha256: str
    size: int
    data: bytes | None = field(default=None, repr=False)  # all of it, where it is small and read whole
    fault: str | None = None  # why nothing can be read in it, where that is known
    opened: Callable[[], BinaryIO] | None = None
    replaces: frozenset[str] | None = None
    pending: bool = False  # it has come in, and its sensor has not reached it: it may be loaded by now, or not

    def open(self, progress: Callable[[int], None] = lambda _bytes: None) -> BinaryIO:
        """A stream over exactly these bytes: at its end it raises PayloadChanged if they are others by now.

        `progress` is told the bytes of each read. Raises FileRejected when the payload has a `fault`, or is larger than
        anything of its kind can be, where that is read `whole`.
        """
        if self.fault is not None:
            raise FileRejected(self.fault)
        if self.data is not None:
            progress(self.size)
            return io.BytesIO(self.data)
        if not self.kind.whole:
            return self.raw(progress)
        if self.size > self.kind.limit:
            raise FileRejected(
                f"{self.size >> 20} MiB is too large for {self.kind.what}: at most {self.kind.limit >> 20} MiB."
            )
        return io.BytesIO(self.whole(progress))

    def whole(self, progress: Callable[[int], None] = lambda _bytes: None) -> bytes:
        """All of its bytes, which are few. Raises PayloadChanged if they are others by now."""
        with self.raw(progress) as stream:
            return stream.read()

    def raw(self, progress: Callable[[int], None] = lambda _bytes: None) -> BinaryIO:
        """As `open`, of any size and kind."""
        return io.BytesIO(self.data) if self.data is not None else io.BufferedReader(_Verified(self, progress), _BLOCK)


class _Verified(io.RawIOBase):
    """Reads a payload and proves, at its end, that it was the payload."""

    def __init__(self, payload: Payload, progress: Callable[[int], None]) -> None:
        self._payload, self._left, self._progress = payload, payload.size, progress
        self._file = payload.opened() if payload.opened else payload.path.open("rb")
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


def payload(path: Path, kind: Kind, name: str | None = None, seal: Seal | None = None) -> Payload:
    """The payload that a file is now; `seal` is needed for a kind with secrets.

    Raises UsageError when it cannot be read, or has secrets and is too large for its kind.
    """
    digest, size, parts = hashlib.sha256(), 0, []
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
                if kind.whole and size <= kind.limit:
                    parts.append(block)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from error
    data = b"".join(parts) if kind.whole and size <= kind.limit else None
    found = Payload(name or path.name, path, kind, digest.hexdigest(), size, data)
    return found if kind.secret is None else _sealed(found, kind.secret, seal)


def _sealed(content: Payload, member: str, seal: Seal | None) -> Payload:
    """The payload without its secrets. What is not in memory would be copied as it is, so it is no payload at all."""
    if content.data is None:
        raise UsageError(f"{content.name} is too large for {content.kind.what}, and no copy of secrets is kept.")
    if seal is None:
        raise UsageError(f"{content.name} holds secrets: load it with `b3 signals import`.")
    sealed = seal(content.data, member) if not _is_blank(content.data) else Sealed(b"")
    return replace(content, data=sealed.data, fault=sealed.fault)


@dataclass(frozen=True)
class Found:
    """A file of a folder: a payload, or the reason why there is none."""

    name: str
    kind: Kind | None
    payload: Payload | None = None
    outcome: str | None = None  # missing, empty, rejected or ignored, where there is nothing to load
    reason: str | None = None

    @property
    def loadable(self) -> Payload | None:
        """The payload, where there is something in it."""
        return None if self.outcome else self.payload


def survey(folder: Path, kinds: Sequence[Kind] = LEGACY_KINDS, seal: Seal | None = None) -> list[Found]:
    """The files of a folder, in the order in which they load: by `kinds` (FORMATS §3), captures by their timestamp.

    Those that belong to no kind come last. Of two captures of one moment the current file comes first, so it is the
    one whose layout is kept. `seal` is needed where a kind has secrets. Raises UsageError when the folder is none.
    """
    require_folder(folder, kinds)
    found = []
    for kind in kinds:
        files = [_look(folder, kind.file, kind, seal)]
        if kind.history is not None:
            past = folder.glob(f"{HISTORY_FOLDER}/{kind.history}")
            files += (_look(folder, p.relative_to(folder).as_posix(), kind, seal) for p in past)
            files.sort(key=_age)
        found += files
    return found + _ignored(folder, {f.name for f in found})


def require_folder(folder: Path, kinds: Sequence[Kind] = LEGACY_KINDS) -> None:
    """Raises UsageError when the folder is none."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give the one with {', '.join(k.file for k in kinds)}.")


def _look(folder: Path, name: str, kind: Kind, seal: Seal | None) -> Found:
    path = folder / name
    if not path.exists() and not path.is_symlink():
        return Found(name, kind, outcome="missing", reason="not in the folder")
    if not path.is_file():  # opening a pipe would wait for ever
        return Found(name, kind, outcome="rejected", reason="it is no file, or a link that leads nowhere")
    try:
        content = payload(path, kind, name, seal)
        blank = _blank(content)
    except (UsageError, OSError) as error:
        return Found(name, kind, outcome="rejected", reason=str(error))
    return Found(name, kind, content, *(("empty", "nothing in it") if blank else ()))


def _blank(content: Payload) -> bool:
    with content.raw() as stream:
        while block := stream.read(_BLOCK):
            if not _is_blank(block):
                return False
    return True


def _is_blank(block: bytes) -> bool:
    return not block.strip(b" \t\r\n\xef\xbb\xbf")


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
