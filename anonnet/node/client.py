"""Asks the daemon over its control socket (node.api)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from anonnet.errors import OperatorError
from anonnet.node.api import MAX_LINE, SOCKET_NAME, Failed, Progress, Request, Response, encode

A = TypeVar("A")

_RESPONSES: Final[msgspec.json.Decoder[Response]] = msgspec.json.Decoder(Response)


class DaemonDownError(OperatorError):
    """Nobody listens on the control socket."""


class Client:
    """Asks the daemon whose sockets are in `run_dir`; every failure is an OperatorError."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / SOCKET_NAME

    def call(
        self,
        request: Request,
        answer: type[A],
        on_progress: Callable[[Progress], None] = lambda progress: None,
        fds: Sequence[int] = (),
        timeout: float = 10.0,
    ) -> A:
        """Send a request and wait `timeout` seconds for its answer. What `on_progress` raises is raised."""
        with self._connect() as sock:
            for line in _exchange(sock, encode(request), fds, timeout):
                response = _decode(_RESPONSES, line)
                if isinstance(response, Progress):
                    on_progress(response)
                elif isinstance(response, Failed):
                    raise OperatorError(response.what, response.hint)
                else:
                    return _decode(msgspec.json.Decoder(answer), bytes(response.result))
        raise OperatorError("the daemon ended before it answered", "look at its log for the reason")

    def _connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(self.path))
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            hint = "start it with: systemctl start anonnet, or: anonnet-tun run"
            raise DaemonDownError(f"no daemon listens at {self.path}", hint) from None
        except PermissionError:
            sock.close()
            raise OperatorError(f"may not use {self.path}", "run this with sudo") from None
        except OSError as error:
            sock.close()
            raise OperatorError(f"cannot use {self.path}", error.strerror or str(error)) from None
        return sock


def _exchange(
    sock: socket.socket, request: bytes, fds: Sequence[int], timeout: float
) -> Iterator[bytes | bytearray]:
    """Send a request and yield the lines of what comes back, until the daemon ends."""
    deadline = time.monotonic() + timeout
    buffer = bytearray()
    try:
        sock.settimeout(timeout)
        socket.send_fds(sock, [request], list(fds))
        while len(buffer) <= MAX_LINE:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            received = sock.recv(65536)
            if not received:
                return
            *lines, buffer = (buffer + received).split(b"\n")
            yield from lines
    except TimeoutError:
        hint = "ask again with more time, or look at its log"
        raise OperatorError(f"the daemon did not answer within {timeout:g} s", hint) from None
    except OSError as error:
        raise OperatorError("the daemon went away", f"look at its log ({error.strerror})") from None
    raise OperatorError("the daemon's answer has no end", "restart the daemon after an upgrade")


def _decode(decoder: msgspec.json.Decoder[A], line: bytes | bytearray) -> A:
    try:
        return decoder.decode(line)
    except msgspec.MsgspecError as error:
        hint = "restart the daemon after an upgrade"
        raise OperatorError(f"the daemon's answer is not understood ({error})", hint) from None
