from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from b3_pipeline.credentials import UnsafeSecret, password, write_private


def test_a_password_is_made_once_and_kept(tmp_path: Path) -> None:
    first = password(tmp_path / "secrets", "questdb")
    assert len(first) >= 43
    assert password(tmp_path / "secrets", "questdb") == first
    assert password(tmp_path / "secrets", "postgres") != first


def test_nobody_else_can_read_a_secret_or_list_the_folder(tmp_path: Path) -> None:
    password(tmp_path / "secrets", "questdb")
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "secrets" / "questdb").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_secret_that_others_can_reach_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    secret = password(tmp_path / "secrets", "questdb")
    (tmp_path / "secrets" / "questdb").chmod(mode)
    with pytest.raises(UnsafeSecret, match="chmod go-rwx") as refusal:
        password(tmp_path / "secrets", "questdb")
    assert secret not in str(refusal.value)


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir(mode=0o755)
    with pytest.raises(UnsafeSecret, match="secrets is open to other users"):
        password(tmp_path / "secrets", "questdb")


def test_makers_at_the_same_moment_get_the_same_password(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(lambda _: password(tmp_path / "secrets", "questdb"), range(64)))
    assert len(found) == 1
    assert [p.name for p in (tmp_path / "secrets").iterdir()] == ["questdb"]


def test_a_private_file_replaces_the_old_one_and_leaves_no_draft(tmp_path: Path) -> None:
    file = tmp_path / "server.conf"
    write_private(file, "old")
    write_private(file, "new")
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["server.conf"]
