"""QuestDB's checkpoint: while there is one, the files of the data folder may be copied, and the copy can be opened.

What was tried on 9.3.4: writes go on meanwhile and are not in the copy; a checkpoint ends with the server's process; a
second one is refused until the first is released; to release none is no error.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from b3_pipeline.questdb.client import QuestDB

#: What of the server's folder is copied: not its configuration, which has passwords in it and is made at each start.
COPIED = ("db", ".checkpoint")
#: An empty file of this name lets the server go back to the checkpoint at its next start, which takes it away.
TRIGGER = "_restore"


@contextmanager
def checkpointed(db: QuestDB) -> Iterator[None]:
    """A checkpoint for the length of the block, released whatever happens in it. Raises QuestDBError."""
    try:
        db.execute("CHECKPOINT CREATE")
        yield
    finally:
        db.execute("CHECKPOINT RELEASE")


def in_progress(db: QuestDB) -> bool:
    """Whether there is a checkpoint now; for as long as there is one the server takes no stale files away."""
    return bool(db.scalar("select in_progress from checkpoint_status()"))


def release_left(db: QuestDB) -> bool:
    """Releases a checkpoint that a dead process left, and tells whether there was one.

    For whoever knows that no living process of ours is making a backup.
    """
    left = in_progress(db)
    if left:
        db.execute("CHECKPOINT RELEASE")
    return left


def copy(folder: Path, target: Path) -> None:
    """Copies the data of the server in `folder` for a server in `target`, which goes back to the checkpoint at its start.

    What vanishes meanwhile is left out: without writers that is nothing the checkpoint needs; with writers that hold no
    lock of ours it may be, for 9.3.4 takes replaced partitions away all the same (questdb#6836). So a copy is proven by
    opening it.
    """
    for name in COPIED:
        _copy(folder / name, target / name)
    (target / TRIGGER).touch()


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        try:
            if path.is_dir():
                _copy(path, target / path.name)
            else:
                shutil.copyfile(path, target / path.name)
        except FileNotFoundError:
            continue
