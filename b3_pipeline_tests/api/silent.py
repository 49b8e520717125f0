"""Servers that are no good: one that never says a word, one that is not there, and a way to a good one that is cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from b3_pipeline.ports import HOST
from b3_pipeline.questdb.client import Address


@contextmanager
def silent_port() -> Iterator[int]:
    """The port of such a server: the system accepts for it, and nobody ever reads."""
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        listening.listen(256)
        yield listening.getsockname()[1]


@contextmanager
def refused_port() -> Iterator[int]:
    """A port that stays ours and at which nobody listens."""
    with socket.socket() as bound:
        bound.bind((HOST, 0))
        yield bound.getsockname()[1]


class Line:
    """A connection's way to QuestDB, which can be cut: nothing gets through then, and nobody is told."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target, self.cut = target, threading.Event()
        self._listening = socket.create_server((HOST, 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listening.accept()
                there = socket.create_connection(self._target)
            except OSError:
                return
            self._open += [here, there]
            for source, sink in ((here, there), (there, here)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65_536):
                if not self.cut.is_set():
                    sink.sendall(data)
        except OSError:
            return

    def close(self) -> None:
        for each in self._open:
            each.close()


@contextmanager
def line_to(address: Address) -> Iterator[Line]:
    line = Line((address.pg_host, address.pg_port))
    try:
        yield line
    finally:
        line.close()
