"""Listening ports on this machine: whether they are free, and who has them."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import psutil

from b3_pipeline.errors import B3Error

HOST = "127.0.0.1"


class PortBusy(B3Error):
    """Somebody listens where one of our servers should."""


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def owner(port: int) -> str | None:
    """The program and id of the process that listens on a port, where the system lets us know."""
    try:
        listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        pids = [c.pid for c in listening if c.laddr and c.laddr.port == port]
        return f"{psutil.Process(pids[0]).name()}, pid {pids[0]}" if pids and pids[0] else None
    except psutil.Error:
        return None


def require_free(wanted: Mapping[str, int]) -> None:
    """Raises PortBusy, naming the process where it is known, unless all ports (by what they are for) are free."""
    busy = [
        f"Port {port} ({what}) is used by {owner(port) or 'another process'}"
        for what, port in wanted.items()
        if not is_free(port)
    ]
    if busy:
        raise PortBusy(
            f"{'. '.join(busy)}. Stop it, or set B3_PORT_BASE to the first of six other ports that are free "
            "(for example B3_PORT_BASE=9800)."
        )
