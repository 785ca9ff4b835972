"""No command opens a connection or listens for one."""

from __future__ import annotations

import socket
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.campaigns.jobs import JOBS, prepare
from tests.campaigns.machinery import OK, Campaign, call, fork

pytestmark = pytest.mark.campaign

NETWORK = ("socket.bind", "socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request")
"""Python's audit events of it."""


def refuse_network() -> None:
    """Let this process fail where it uses the network; for children only."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in NETWORK:
            raise RuntimeError(f"NETWORK {event} {arguments}")

    sys.addaudithook(hook)


def run(words: tuple[str | Path, ...]) -> int:
    refuse_network()
    return call(*words)


@pytest.mark.parametrize("name", JOBS)
def test_jobs(name: str, campaign: Campaign, model: Path, tmp_path: Path) -> None:
    outcome = campaign.call(partial(run, JOBS[name].words), folder=prepare(tmp_path / "job", model), memory=None)
    assert outcome.verdict == OK and "NETWORK" not in outcome.text, outcome.text


def test_a_connection_would_be_seen() -> None:
    def connect() -> None:
        refuse_network()
        socket.create_connection(("127.0.0.1", 9))

    assert "NETWORK socket" in fork(connect).text
