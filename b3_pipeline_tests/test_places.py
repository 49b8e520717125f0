"""Places: a file is whole or not there, here and in a bucket, and no name leads out of its place."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from b3_pipeline.places import Place, PlaceError, backups_of, exports_of, place
from b3_pipeline.questdb.client import QuestDB
from b3_pipeline.settings import Settings
from b3_pipeline.tables import TABLES
from b3_pipeline.warehouse.exports import export_partition, manifests, partitions, verify
from b3_pipeline_tests.warehouse.made_rows import AT, made, store


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a local server that speaks S3."""
    import boto3

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a test",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="desk")
        yield "s3://desk"
    server.stop()


@pytest.fixture(params=["folder", "s3", "memory"])
def there(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place of each kind."""
    if request.param == "folder":
        return place(tmp_path / "a place")
    if request.param == "s3":
        return place(f"{request.getfixturevalue('bucket')}/{tmp_path.name}")
    return place(f"memory://{tmp_path.name}")


def test_what_was_written_is_there_under_its_name(there: Place, tmp_path: Path) -> None:
    assert there.names() == []
    there.write("b/two.txt", b"two")
    there.write("a.txt", b"one")
    (tmp_path / "given").write_bytes(b"z" * 300_000)
    there.put(tmp_path / "given", "b/c/three")
    assert there.names() == ["a.txt", "b/c/three", "b/two.txt"]
    assert there.names("b") == ["b/c/three", "b/two.txt"]
    assert there.names("nothing") == []
    assert (there.read("b/two.txt"), there.size("b/c/three")) == (b"two", 300_000)
    assert there.sha256("b/c/three") == sha256(b"z" * 300_000).hexdigest()
    there.get("b/c/three", tmp_path / "got" / "it")
    assert (tmp_path / "got" / "it").read_bytes() == b"z" * 300_000
    there.write("a.txt", b"other")
    assert there.read("a.txt") == b"other"


def test_what_is_not_there_is_said_and_its_removal_is_none(there: Place, tmp_path: Path) -> None:
    there.write("a", b"1")
    there.remove("a")
    there.remove("a")
    for ask in (there.read, there.size, there.sha256):
        with pytest.raises(FileNotFoundError):
            ask("a")
    with pytest.raises(FileNotFoundError):
        there.get("a", tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "", "a\0b"])
def test_no_name_leads_out_of_a_place(name: str, there: Place) -> None:
    for use in (there.read, there.remove, lambda name: there.write(name, b"")):
        with pytest.raises(PlaceError):
            use(name)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("s3://", "no bucket"),
        ("typo://desk", "cannot be a place"),
        ("sftp://user:hunter2@host/x", "No secret"),
        ("s3://desk/x?secret=hunter2", "No secret"),
        ("http://[desk", "no URL"),
    ],
)
def test_what_cannot_be_a_place_is_said_without_its_secrets(url: str, why: str) -> None:
    with pytest.raises(PlaceError, match=why) as raised:
        place(url)
    assert "hunter2" not in str(raised.value)


def test_a_place_that_does_not_answer_is_no_empty_one(bucket: str) -> None:
    nowhere = place("s3://nobody-made-it/x")
    for use in (nowhere.names, lambda: nowhere.write("a", b"")):
        with pytest.raises(PlaceError, match="s3://nobody-made-it/x does not answer"):
            use()


def test_a_file_that_is_being_written_has_no_name_yet_and_an_old_draft_goes(tmp_path: Path) -> None:
    here = place(tmp_path)
    for name, age in ((".a.draft-00000000", 25), (".b.draft-00000000", 1), (".c", 25)):
        (tmp_path / name).write_bytes(b"half")
        then = time.time() - age * 3_600
        os.utime(tmp_path / name, times=(then, then))
    assert here.names() == [".c"]
    here.write("d", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.draft-00000000", ".c", "d"]


def test_a_reader_sees_one_state_or_the_other(tmp_path: Path) -> None:
    here, states = place(tmp_path), (b"a" * 500_000, b"b" * 700_000)
    here.write("file", states[0])
    seen = set()

    def look() -> None:
        while not done.is_set():
            seen.add(here.read("file"))

    done = threading.Event()
    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(40):
        here.write("file", states[turn % 2])
    done.set()
    reader.join()
    assert seen <= set(states)


def test_a_home_has_its_places_in_itself_unless_they_are_set(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert (exports_of(settings).url, backups_of(settings).url) == (f"{tmp_path}/exports", f"{tmp_path}/backups")
    elsewhere = Settings(home=tmp_path, exports_url="s3://desk/exports/", backups_url=f"file://{tmp_path}/b")
    assert (exports_of(elsewhere).url, backups_of(elsewhere).url) == ("s3://desk/exports", f"{tmp_path}/b")


def test_exports_in_a_bucket_are_the_table(db: QuestDB, bucket: str) -> None:
    ticks, start = TABLES["b3_dxy_ticks"], datetime(2025, 9, 3, 12)
    store(db, ticks, made(ticks, start, 600))
    store(db, ticks, made(ticks, start + timedelta(days=40), 1))
    there = place(f"{bucket}/exports")
    [closed, _open] = partitions(db, ticks)
    manifest = export_partition(db, ticks, closed, there, AT)
    assert manifests(there, ticks) == {"2025-09": manifest}
    assert verify(there, manifest, db) == []
    frame = pd.read_parquet("s3://desk/exports/b3_dxy_ticks")
    assert len(frame) == 600
    assert frame["value"].max() == db.scalar("select max(value) from b3_dxy_ticks where ts < '2025-10'")

    store(db, ticks, made(ticks, start, 10, salt=1))
    other = export_partition(db, ticks, closed, there, AT)
    assert (verify(there, other, db), len(verify(there, manifest))) == ([], 1)
    there.write(other.files[0].name, b"PAR1")
    assert "damaged" in verify(there, other)[0]
