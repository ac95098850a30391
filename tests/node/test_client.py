"""The control socket's client against a daemon of the test's own."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from anonnet.errors import OperatorError
from anonnet.node import api
from anonnet.node.client import Client, DaemonDownError

STATUS = api.Status(api.SCHEMA, "abc", "up", None, (), ())


class Daemon:
    """Answers one request with the bytes it is given, and keeps what it was sent."""

    def __init__(self, run_dir: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(run_dir / api.SOCKET_NAME))
        self._listener.listen()
        self._thread: threading.Thread | None = None
        self.line = b""
        self.fds: list[int] = []

    def answer(self, *parts: bytes, then: Callable[[], object] = lambda: None) -> None:
        def serve() -> None:
            peer, _ = self._listener.accept()
            with peer:
                self.line, self.fds, _, _ = socket.recv_fds(peer, 65536, 4)
                with contextlib.suppress(BrokenPipeError):  # the client may have heard enough
                    for part in parts:
                        peer.sendall(part)
                then()

        self._thread = threading.Thread(target=serve)
        self._thread.start()

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(10)
        self._listener.close()
        for fd in self.fds:
            os.close(fd)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    yield made
    made.close()


def test_progress_then_the_answer(daemon: Daemon, tmp_path: Path) -> None:
    steps = [api.Progress("create r1", 0.25), api.Progress("extend r2")]
    daemon.answer(*map(api.encode, steps), api.encode(api.done(STATUS)))
    seen: list[api.Progress] = []
    assert Client(tmp_path).call(api.GetStatus(), api.Status, seen.append) == STATUS
    assert seen == steps
    assert api.decode_request(daemon.line) == api.GetStatus()


def test_an_answer_in_small_pieces(daemon: Daemon, tmp_path: Path) -> None:
    line = api.encode(api.Progress("half")) + api.encode(api.done(STATUS))
    daemon.answer(*(line[i : i + 7] for i in range(0, len(line), 7)))
    assert Client(tmp_path).call(api.GetStatus(), api.Status) == STATUS


def test_up_hands_over_the_device(daemon: Daemon, tmp_path: Path) -> None:
    daemon.answer(api.encode(api.done(STATUS)))
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as pipe:
        try:
            Client(tmp_path).call(api.Up(hops=3), api.Status, fds=(write_end,))
        finally:
            os.close(write_end)
        assert len(daemon.fds) == 1
        os.write(daemon.fds[0], b"through")
        assert pipe.read(7) == b"through"
    assert api.decode_request(daemon.line) == api.Up(hops=3)


def test_who_cannot_tell_the_progress_says_so_itself(daemon: Daemon, tmp_path: Path) -> None:
    """`anonnet-tun debug | head -1`: the reader has gone, not the daemon."""
    daemon.answer(api.encode(api.Progress("create r1")), api.encode(api.done(STATUS)))

    def tell(progress: api.Progress) -> None:
        raise BrokenPipeError(progress.text)

    with pytest.raises(BrokenPipeError, match="create r1"):
        Client(tmp_path).call(api.GetStatus(), api.Status, tell)


def test_failures_keep_their_hint(daemon: Daemon, tmp_path: Path) -> None:
    daemon.answer(api.encode(api.Failed("no exit is known", "add a peer that is one")))
    with pytest.raises(OperatorError) as caught:
        Client(tmp_path).call(api.Up(), api.Status)
    assert (caught.value.what, caught.value.hint) == ("no exit is known", "add a peer that is one")


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(DaemonDownError, match="start it with"):
        Client(tmp_path).call(api.GetStatus(), api.Status)
    leftover = socket.socket(socket.AF_UNIX)
    leftover.bind(str(tmp_path / api.SOCKET_NAME))
    leftover.close()
    with pytest.raises(DaemonDownError, match="start it with"):
        Client(tmp_path).call(api.GetStatus(), api.Status)


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="cannot use"):
        Client(tmp_path / ("x" * 120)).call(api.GetStatus(), api.Status)


def test_a_daemon_that_says_nothing(daemon: Daemon, tmp_path: Path) -> None:
    finished = threading.Event()
    daemon.answer(then=finished.wait)
    with pytest.raises(OperatorError, match="did not answer within"):
        Client(tmp_path).call(api.GetStatus(), api.Status, timeout=0.05)
    finished.set()


def test_progress_does_not_extend_the_time(daemon: Daemon, tmp_path: Path) -> None:
    finished = threading.Event()
    daemon.answer(api.encode(api.Progress("still there")), then=finished.wait)
    with pytest.raises(OperatorError, match="did not answer within"):
        Client(tmp_path).call(api.GetStatus(), api.Status, timeout=0.05)
    finished.set()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "ended before it answered"),
        (api.encode(api.done(STATUS))[:-9], "ended before it answered"),
        (b"what?\n", "not understood"),
        (b'{"type":"done","result":{"schema":"one"}}\n', "not understood"),
        (b'{"type":"later"}\n', "not understood"),
        (b"x" * (api.MAX_LINE + 1), "has no end"),
    ],
)
def test_answers_of_another_version(daemon: Daemon, tmp_path: Path, answer: bytes, reason: str) -> None:
    daemon.answer(answer)
    with pytest.raises(OperatorError, match=reason):
        Client(tmp_path).call(api.GetStatus(), api.Status)


@given(st.binary(max_size=100))
def test_any_line_is_a_request_or_an_operator_error(line: bytes) -> None:
    with contextlib.suppress(OperatorError):
        api.decode_request(line)


PROMISED = {
    api.Status: "schema id state exit circuits links",
    api.CircuitStatus: "id exit routes",
    api.RouteStatus: "id hops state cells_per_tick",
    api.LinkStatus: "peer state transport profile tick_us cells_per_tick"
    " cells_sent cells_received cells_missed late_ticks skipped_ticks",
}


@pytest.mark.parametrize("report", PROMISED)
def test_status_has_the_names_that_were_promised(report: type[Struct]) -> None:
    """Other people's programs read `status --json`: schema 1 renames nothing, and adds at the end only."""
    promised = PROMISED[report].split()
    assert list(report.__struct_fields__)[: len(promised)] == promised
