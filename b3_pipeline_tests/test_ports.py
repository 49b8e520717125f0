from __future__ import annotations

import os
import socket

import pytest

from b3_pipeline.ports import HOST, PortBusy, is_free, owner, require_free


@pytest.fixture
def taken(port_base: int):
    with socket.create_server((HOST, port_base)):
        yield port_base


def test_a_port_is_free_until_somebody_listens(port_base: int) -> None:
    assert is_free(port_base)
    with socket.create_server((HOST, port_base)):
        assert not is_free(port_base)


def test_the_error_names_port_purpose_process_and_setting(taken: int) -> None:
    with pytest.raises(PortBusy) as error:
        require_free({"QuestDB HTTP": taken, "Dagster": taken + 1})
    message = str(error.value)
    assert f"Port {taken} (QuestDB HTTP)" in message
    assert f"pid {os.getpid()}" in message
    assert "B3_PORT_BASE" in message
    assert str(taken + 1) not in message


def test_nobody_owns_a_free_port(port_base: int) -> None:
    assert owner(port_base) is None
