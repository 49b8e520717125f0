"""Folders for what is kept elsewhere (exports, backups): a path of this machine, or any URL that fsspec knows.

What has a name in a place is whole: it is written beside it first where a name could show half a file. Credentials come
from the environment, as the file system's own tools read them (`AWS_ACCESS_KEY_ID`, …); none belongs into a URL.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from b3_pipeline.durable import make_folder, sync
from b3_pipeline.errors import B3Error
from b3_pipeline.settings import Settings

_BLOCK = 1 << 20
#: What a file is called while it is written, and how old it is when nobody can be writing it any more.
_DRAFT = re.compile(r"\..*\.draft-[0-9a-f]{8}")
_ABANDONED_S = 24 * 3_600
#: Stores of objects, which show a new object once all of it is there.
_WHOLE_BY_NATURE = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "memory"})


class PlaceError(B3Error):
    """A place cannot be used: it is named wrongly, or does not answer."""


class Place:
    """A folder, here or elsewhere. Names are relative to it, with `/`; their folders are made when they are needed.

    Every method raises PlaceError when the place does not answer or refuses, or a name leads out of it; of a folder of
    this machine the OSError says it.
    """

    def __init__(self, url: str, files: Any, root: str) -> None:
        self.url = url
        self._files, self._root = files, root.rstrip("/")
        protocols = {files.protocol} if isinstance(files.protocol, str) else set(files.protocol)
        self._local = "file" in protocols
        self._whole = bool(protocols & _WHOLE_BY_NATURE)

    def __str__(self) -> str:
        return self.url

    def read(self, name: str) -> bytes:
        """All of a file. Raises FileNotFoundError."""
        with self._told(), self.open(name) as stream:
            return stream.read()

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """A file to be read from any of its bytes on. Raises FileNotFoundError."""
        with self._told():
            stream = self._files.open(self._path(name), "rb")
        with stream:
            yield stream

    def write(self, name: str, data: bytes) -> None:
        """Puts bytes under a name, over what has it; a folder of this machine has them on its disk."""
        with self._told(named=False):
            if self._local:
                with self._draft(name) as draft:
                    draft.write(data)
            else:
                self._send(name, lambda path: self._files.pipe_file(path, data))

    def put(self, local: Path, name: str) -> None:
        """Puts a file of this machine under a name, as `write` does."""
        with self._told(named=False):
            if self._local:
                with local.open("rb") as source, self._draft(name) as draft:
                    shutil.copyfileobj(source, draft, _BLOCK)
            else:
                self._send(name, lambda path: self._files.put_file(str(local), path))

    def get(self, name: str, local: Path) -> None:
        """Copies a file to one of this machine, whole or not at all. Raises FileNotFoundError."""
        with self._told(), self.open(name) as source, _draft(local) as draft:
            shutil.copyfileobj(source, draft, _BLOCK)

    def names(self, under: str = "") -> list[str]:
        """The names of all files below a folder of the place, in order; what is still being written has none."""
        with self._told(named=False):
            found = self._files.find(self._path(under) if under else self._root or "/")
            start = len(self._files._strip_protocol(self._root)) + 1 if self._root else 1
            return sorted(path[start:] for path in found if not _DRAFT.fullmatch(PurePosixPath(path).name))

    def remove(self, name: str) -> None:
        """Takes a file away; no error when it is gone."""
        with self._told(), suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def sha256(self, name: str) -> str:
        """The SHA-256 of a file, hex, read in pieces. Raises FileNotFoundError."""
        digest = hashlib.sha256()
        with self._told(), self.open(name) as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def size(self, name: str) -> int:
        """The bytes of a file. Raises FileNotFoundError."""
        with self._told():
            return int(self._files.info(self._path(name))["size"])

    def _path(self, name: str) -> str:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise PlaceError(f"{name!r} is no name of a file in {self.url}.")
        return f"{self._root}/{name}"

    def _send(self, name: str, send: Any) -> None:
        path = self._path(name)
        if self._whole:
            send(path)
            return
        folder, _, last = path.rpartition("/")
        draft = f"{folder}/{_draft_name(last)}"
        self._files.makedirs(folder, exist_ok=True)
        try:
            send(draft)
            self._files.mv(draft, path)
        except BaseException:
            with suppress(Exception):
                self._files.rm_file(draft)
            raise

    @contextmanager
    def _draft(self, name: str) -> Iterator[BinaryIO]:
        with _draft(Path(self._path(name))) as stream:
            yield stream

    @contextmanager
    def _told(self, *, named: bool = True) -> Iterator[None]:
        """What goes wrong elsewhere as a PlaceError, for each file system has errors of its own.

        `named`: the caller wants to know that there is no file of a name. What else is missing is the place itself.
        """
        try:
            yield
        except B3Error:
            raise
        except Exception as error:
            if self._local or (named and isinstance(error, FileNotFoundError)):
                raise
            raise PlaceError(f"{self.url} does not answer, or refuses: {_first_line(error)}") from error


def place(url: str | Path) -> Place:
    """The place that a path or URL names; nothing is made or asked yet. Raises PlaceError for what cannot be one."""
    text = str(url)
    try:
        parts = urlsplit(text)
        password, scheme = parts.password, parts.scheme
    except ValueError:
        raise PlaceError("That is no path, and no URL such as s3://bucket/prefix.") from None
    if "://" not in text or scheme in ("file", "local"):
        path = Path(text.partition("://")[2] if "://" in text else text).expanduser().absolute()
        return Place(str(path), _file_system("file"), str(path))
    if password is not None or parts.query or parts.fragment:
        raise PlaceError(
            f"No secret and no option belongs into the URL of a place ({scheme}://…): see docs/retention.md."
        )
    if not parts.netloc:
        raise PlaceError(f"{text} names no bucket or server: it is like s3://bucket/prefix.")
    files = _file_system(scheme, text)
    return Place(text.rstrip("/"), files, files._strip_protocol(text))


def exports_of(settings: Settings) -> Place:
    """Where the exports of a home are."""
    return place(settings.exports_url or settings.home / "exports")


def backups_of(settings: Settings) -> Place:
    """Where the backups of a home are."""
    return place(settings.backups_url or settings.home / "backups")


def _file_system(scheme: str, url: str = "") -> Any:
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(scheme)
        # What others change must show, and another process's credentials are not ours: nothing is cached.
        return kind(**kind._get_kwargs_from_urls(url), use_listings_cache=False, skip_instance_cache=True)
    except (ValueError, ImportError) as error:
        raise PlaceError(f"{scheme}:// cannot be a place here: {_first_line(error)}") from None


@contextmanager
def _draft(path: Path) -> Iterator[BinaryIO]:
    """A stream whose bytes have the name once the block has ended well, and are on the disk then."""
    make_folder(path.parent)
    _clear(path.parent)
    draft = path.with_name(_draft_name(path.name))
    try:
        with draft.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
        sync(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def _draft_name(name: str) -> str:
    return f".{name}.draft-{secrets.token_hex(4)}"


def _clear(folder: Path) -> None:
    """Takes away the drafts of processes that died long ago."""
    for path in folder.glob(".*.draft-*"):
        with suppress(FileNotFoundError):
            if _DRAFT.fullmatch(path.name) and time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
