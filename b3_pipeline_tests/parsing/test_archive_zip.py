from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from b3_pipeline.parsing import archive_zip
from b3_pipeline.parsing.archive_zip import report_xml
from b3_pipeline.parsing.records import FileRejected

XML = b"<Document/>" * 50


def zipped(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target.getvalue()


def unpacked(data: bytes) -> bytes:
    with report_xml(io.BytesIO(data)) as xml:
        return xml.read()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_the_xml_of_a_zip_is_read(compression: int) -> None:
    assert unpacked(zipped({"LEIAME.txt": b"x", "folder/BVBG.187.XML": XML}, compression)) == XML


def test_the_xml_of_a_zip_in_a_zip_is_read() -> None:
    assert unpacked(zipped({"SPRD260112.zip": zipped({"a.xml": XML})})) == XML


def test_a_zip_in_a_zip_in_a_zip_is_not_looked_into() -> None:
    with pytest.raises(FileRejected, match=r"no XML, but 'inner\.zip'"):
        unpacked(zipped({"a.zip": zipped({"inner.zip": zipped({"a.xml": XML})})}))


def test_what_is_no_zip_is_given_as_it_is() -> None:
    assert unpacked(XML) == XML
    assert unpacked(b"") == b""


def test_of_several_the_last_by_name_supersedes_the_others() -> None:
    old, new = "BVBG.187.01_BV000471202601120001.xml", "BVBG.187.01_BV000471202601120002.xml"
    assert unpacked(zipped({f"z/{old}": b"<old/>", f"a/{new}": b"<new/>"})) == b"<new/>"
    assert unpacked(zipped({"2.zip": zipped({"b.xml": b"<new/>"}), "1.zip": zipped({"c.xml": b"<old/>"})})) == b"<new/>"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04 and no more", "cut off or damaged"),
        (zipped({"a.xml": XML})[:-30], "cut off or damaged"),
        (zipped({"a.zip": b"PK\x03\x04 and no more"}), "cut off or damaged"),
        (zipped({}), "the zip is empty"),
        (zipped({"a.csv": b"1", "b.pdf": b"2"}), r"no XML, but 'a\.csv', 'b\.pdf'"),
        (zipped({"a.xml": XML}, zipfile.ZIP_LZMA), "compressed in a way"),
        (zipped({"a.xml": XML}, zipfile.ZIP_BZIP2), "compressed in a way"),
        (zipped({f"{i}.xml": b"" for i in range(101)}), "more than 100 entries"),
    ],
)
def test_a_zip_that_cannot_be_a_report_is_rejected_with_a_sentence(data: bytes, said: str) -> None:
    with pytest.raises(FileRejected, match=said):
        unpacked(data)


def test_an_encrypted_entry_is_rejected() -> None:
    data = bytearray(zipped({"a.xml": XML}))
    data[6] |= 1  # flags of the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and of the central directory
    with pytest.raises(FileRejected, match="encrypted"):
        unpacked(bytes(data))


def test_a_changed_byte_is_noticed() -> None:
    data = bytearray(zipped({"a.xml": XML}, zipfile.ZIP_STORED))
    data[data.index(b"Document")] ^= 1
    with pytest.raises(FileRejected, match="damaged"):
        unpacked(bytes(data))


@pytest.mark.parametrize("levels", [1, 2])
def test_a_bomb_is_stopped_by_what_it_really_unpacks_to(monkeypatch: pytest.MonkeyPatch, levels: int) -> None:
    monkeypatch.setattr(archive_zip, "MAX_BYTES", 1 << 20)
    data = zipped({"a.xml": b" " * (3 << 20)})
    for _ in range(levels - 1):
        data = zipped({"a.zip": data})
    with pytest.raises(FileRejected, match="more than 1 MiB"):
        unpacked(data)


def test_an_inner_zip_counts_with_what_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = zipped({"a.xml": b"x" * 1000}, zipfile.ZIP_STORED)
    monkeypatch.setattr(archive_zip, "MAX_BYTES", len(inner) + 1000)
    assert len(unpacked(zipped({"a.zip": inner}))) == 1000
    monkeypatch.setattr(archive_zip, "MAX_BYTES", len(inner) + 999)
    with pytest.raises(FileRejected, match="holds more than"):
        unpacked(zipped({"a.zip": inner}))


def test_a_size_that_the_header_denies_does_not_pass() -> None:
    data = bytearray(zipped({"a.xml": XML}))
    at = data.index(b"PK\x01\x02") + 24
    data[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(FileRejected, match="damaged"):
        unpacked(bytes(data))


@given(
    st.sampled_from([zipped({"a.xml": XML}), zipped({"a.zip": zipped({"a.xml": XML})})]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=5),
    st.integers(0, 400),
)
def test_a_damaged_zip_never_gives_anything_but_its_whole_xml(
    data: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(data)
    for at, value in changes:
        damaged[at % len(damaged)] = value
    try:
        found = unpacked(bytes(damaged[: max(2, len(damaged) - cut)]))
    except FileRejected:
        return
    assert found == XML or not damaged.startswith(b"PK")
