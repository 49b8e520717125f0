"""Folders as one compressed file, `.tar.zst`, which `tar --zstd` reads as well, and back."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from b3_pipeline.errors import B3Error
from b3_pipeline.progress import Advance

PACKED = ".tar.zst"
_BLOCK = 1 << 20


class PackDamaged(B3Error):
    """A packed folder cannot be read."""


@dataclass(frozen=True)
class Content:
    """What a packed folder holds: its files, and their bytes before they were packed."""

    files: int
    bytes: int


def size_of(folder: Path) -> int:
    """The bytes of all files below a folder, or of a file; 0 when there is none."""
    if folder.is_file():
        return folder.stat().st_size
    total = 0
    for where, _folders, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def files_in(folder: Path) -> list[Path]:
    """All files below a folder, those of a folder before those of the folders in it."""
    found: list[Path] = []
    for where, folders, names in os.walk(folder):
        folders.sort()
        found += [Path(where, name) for name in sorted(names)]
    return found


def by_name(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    """Files of a folder by the names that they have in a pack: relative to it, in the order given."""
    return {str(path.relative_to(folder)): path for path in files}


def pack(files: Mapping[str, Path], target: Path, advance: Advance = lambda _count: None) -> Content:
    """Writes files, in the order given, into one, each with all that it holds: links to one file are as many files.

    A file that is gone by then is left out; one that grows meanwhile is packed as long as it was at first. Raises OSError.
    """
    import pyarrow as pa

    count = size = 0
    with (
        target.open("xb") as raw,
        pa.CompressedOutputStream(raw, "zstd") as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, dereference=True) as tar,  # pyright: ignore[reportArgumentType]
    ):
        for name, path in files.items():
            with suppress(FileNotFoundError), path.open("rb") as source:
                entry = tar.gettarinfo(arcname=name, fileobj=source)
                entry.uid = entry.gid = 0
                entry.uname = entry.gname = ""
                tar.addfile(entry, source)
                count, size = count + 1, size + entry.size
                advance(entry.size)
    return Content(count, size)


def unpack(source: Path, folder: Path) -> Content:
    """Puts packed files into a folder, which is made; stretches of zeros take no room there. On the disk at the end.

    Raises PackDamaged, also where it holds anything that `pack` does not write.
    """
    import pyarrow as pa

    count = size = 0
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with (
            source.open("rb") as raw,
            pa.CompressedInputStream(raw, "zstd") as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,  # pyright: ignore[reportArgumentType]
        ):
            for entry in tar:
                # not tarfile's own filter, which Python has from 3.11.4 on only
                content = tar.extractfile(entry) if entry.isreg() and _is_below(entry.name) else None
                if content is None:
                    raise PackDamaged(f"{source.name} cannot be unpacked: {entry.name!r} in it is no file of a folder.")
                _write(content, folder / entry.name, entry.size)
                count, size = count + 1, size + entry.size
    except (tarfile.TarError, pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; the unpacker's own have no number
            raise
        raise PackDamaged(f"{source.name} cannot be unpacked: {error}") from error
    os.sync()
    return Content(count, size)


def _is_below(name: str) -> bool:
    """Whether a name leads nowhere but into the folder that it is put in."""
    return not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


def _write(content: object, path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as target:
        while block := content.read(_BLOCK):  # pyright: ignore[reportAttributeAccessIssue]
            if block.count(0) == len(block):
                target.seek(len(block), os.SEEK_CUR)
            else:
                target.write(block)
        target.truncate(size)
