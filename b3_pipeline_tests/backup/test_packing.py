"""Folders are packed into one file and come out of it as they were, or not at all."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.backup.packing import Content, PackDamaged, by_name, files_in, pack, size_of, unpack

CONTENTS = st.dictionaries(
    st.lists(st.text("aä é.~", min_size=1).filter(lambda s: s.strip(". ")), min_size=1, max_size=3).map("/".join),
    st.binary(max_size=200) | st.integers(0, 3 << 20).map(bytes),
    max_size=6,
).filter(lambda found: not any(a != b and b.startswith(f"{a}/") for a in found for b in found))


@given(contents=CONTENTS)
def test_what_is_packed_comes_out_as_it_was(
    contents: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pack")
    for name, content in contents.items():
        path = folder / "a" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    packed = folder / "a.tar.zst"
    made = pack(by_name(folder, files_in(folder / "a")), packed)
    assert made == unpack(packed, folder / "b") == Content(len(contents), sum(map(len, contents.values())))
    found = {str(path.relative_to(folder / "b" / "a")): path.read_bytes() for path in files_in(folder / "b")}
    assert found == contents
    assert size_of(folder / "b") == size_of(folder / "a")


def test_room_that_a_server_has_set_aside_takes_none_again(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.d").write_bytes(b"value" + bytes(16 << 20))
    pack(by_name(tmp_path, files_in(tmp_path / "a")), tmp_path / "a.tar.zst")
    unpack(tmp_path / "a.tar.zst", tmp_path / "b")
    there = (tmp_path / "b" / "a" / "x.d").stat()
    assert (tmp_path / "a.tar.zst").stat().st_size < 1 << 20
    assert (there.st_size, there.st_blocks * 512 < 4 << 20) == (5 + (16 << 20), True)


@pytest.mark.parametrize("end", [0.2, 0.9])
def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path, end: float) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(range(256)) * 4_000)
    pack(by_name(tmp_path, files_in(tmp_path / "a")), tmp_path / "a.tar.zst")
    content = (tmp_path / "a.tar.zst").read_bytes()
    (tmp_path / "a.tar.zst").write_bytes(content[: int(len(content) * end)])
    with pytest.raises(PackDamaged):
        unpack(tmp_path / "a.tar.zst", tmp_path / "b")


def test_links_are_packed_as_the_files_that_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"content")
    (tmp_path / "a" / "hard").hardlink_to(tmp_path / "a" / "x")
    (tmp_path / "a" / "soft").symlink_to(tmp_path / "a" / "x")
    made = pack(by_name(tmp_path, files_in(tmp_path / "a")), tmp_path / "a.tar.zst")
    assert made == unpack(tmp_path / "a.tar.zst", tmp_path / "b") == Content(3, 21)
    assert [(tmp_path / "b" / "a" / name).read_bytes() for name in ("x", "hard", "soft")] == [b"content"] * 3


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_what_is_no_file_in_a_pack_is_not_passed_over(tmp_path: Path, kind: bytes) -> None:
    with (
        pa.CompressedOutputStream(tmp_path / "a.tar.zst", "zstd") as stream,
        tarfile.open(fileobj=stream, mode="w|") as tar,  # pyright: ignore[reportArgumentType]
    ):
        tar.addfile(tarfile.TarInfo("x"))
        entry = tarfile.TarInfo("other")
        entry.type, entry.linkname = kind, "x"
        tar.addfile(entry)
    with pytest.raises(PackDamaged):
        unpack(tmp_path / "a.tar.zst", tmp_path / "b")


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside"])
def test_nothing_is_written_outside_of_the_folder(tmp_path: Path, name: str) -> None:
    with (
        pa.CompressedOutputStream(tmp_path / "a.tar.zst", "zstd") as stream,
        tarfile.open(fileobj=stream, mode="w|") as tar,
    ):  # pyright: ignore[reportArgumentType]
        entry = tarfile.TarInfo(name)
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"bad"))
    with pytest.raises(PackDamaged):
        unpack(tmp_path / "a.tar.zst", tmp_path / "b")
    assert not (tmp_path / "outside").exists()
    assert not Path("/outside").exists()
