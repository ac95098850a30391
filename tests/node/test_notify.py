"""What systemd hears from a node: never that it is well when it is not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from anonnet.node.notify import Notifier
from anonnet.node.vitals import Vitals
from anonnet.proto.orders import Stats

SECOND = 1_000_000_000


def counted(at: float) -> Stats:
    return Stats(int(at * SECOND), [], [], 0, 0)


def look(vitals: Vitals, stats: Stats | None, at: float, serving: bool = True) -> list[str]:
    return vitals.look(stats, int(at * SECOND), serving, "fine")


def test_it_is_ready_once_the_data_plane_has_sent_and_only_said_so_once() -> None:
    vitals = Vitals()
    assert look(vitals, None, 100) == ["STATUS=fine"]
    assert look(vitals, counted(100.5), 101) == ["READY=1", "WATCHDOG=1"]
    assert look(vitals, counted(101.5), 102) == ["WATCHDOG=1"]


def test_a_data_plane_that_hangs_silences_the_watchdog_until_it_is_back() -> None:
    vitals = Vitals()
    look(vitals, counted(100), 100)
    assert look(vitals, counted(100), 101.9) == ["WATCHDOG=1"]
    assert look(vitals, counted(100), 103) == []
    assert look(vitals, counted(103.5), 104) == ["WATCHDOG=1"]


def test_a_control_socket_that_nobody_attends_to_silences_the_watchdog() -> None:
    vitals = Vitals()
    assert look(vitals, counted(100), 100, serving=False) == ["STATUS=fine"]


@pytest.mark.parametrize("abstract", [False, True])
def test_lines_reach_the_socket_that_the_environment_names(tmp_path: Path, abstract: bool) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        path = f"@anonnet-{tmp_path.name}" if abstract else str(tmp_path / "notify")
        systemd.bind("\0" + path[1:] if abstract else path)
        systemd.settimeout(5)
        Notifier.take({"NOTIFY_SOCKET": path}, 7).say("READY=1", "STATUS=links up")
        assert systemd.recv(100) == b"READY=1\nSTATUS=links up"


def test_what_was_meant_for_us_is_not_inherited() -> None:
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7", "PATH": "/bin"}
    assert Notifier.take(environment, 7).watchdog == 10
    assert environment == {"PATH": "/bin"}


def test_a_watchdog_that_waits_for_another_process_is_none_of_ours() -> None:
    assert Notifier.take({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "8"}, 7).watchdog == 0


def test_without_systemd_nothing_happens(tmp_path: Path) -> None:
    Notifier().say("READY=1")
    Notifier(str(tmp_path / "nobody")).say("READY=1")
