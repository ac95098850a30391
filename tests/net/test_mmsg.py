"""What leaves together: in its order, whatever of it will not go."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from anonnet.net.mmsg import MAX_SEGMENTS, Departure, Sender
from anonnet.proto.inbox import Outbox
from anonnet.proto.orders import Endpoint
from anonnet.spec import NARROW

NOWHERE = "255.255.255.255"  # a socket that has not asked for them may not send broadcasts


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Three on the loopback: two that send, one that is sent to."""
    with ExitStack() as stack:
        made = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(3)]
        for one in made:
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
        yield made


def sender(
    wire: socket.socket, target: socket.socket, name: int, count: int = 3, address: str = "127.0.0.1"
) -> Sender:
    """Have `count` datagrams that begin with a name and a number."""
    outbox = Outbox(NARROW, count)
    for number, view in enumerate(outbox.views):
        view[:2] = bytes([name, number])
    made = Sender(wire, Endpoint("udp", address, target.getsockname()[1]), outbox)
    made.lay_out(count)
    return made


def come(target: socket.socket) -> list[tuple[int, int]]:
    """Return what has come: over the loopback, all that was sent."""
    seen = []
    while True:
        try:
            datagram = target.recv(2048)
        except BlockingIOError:
            return seen
        assert len(datagram) == NARROW.datagram_len
        seen.append((datagram[0], datagram[1]))


def test_links_of_any_socket_leave_in_the_order_given(sockets: list[socket.socket]) -> None:
    one, other, target = sockets
    order = [(3, one), (1, other), (2, other), (4, one), (0, other)]
    departure = Departure([sender(wire, target, name) for name, wire in order])
    for _ in range(2):
        assert departure.send() == []
        assert come(target) == [(name, number) for name, _ in order for number in range(3)]


def test_a_link_that_cannot_send_is_told_and_holds_nobody_up(sockets: list[socket.socket]) -> None:
    one, _, target = sockets
    many = MAX_SEGMENTS + 2  # two messages
    senders = [
        sender(one, target, 0),
        sender(one, target, 1, many, NOWHERE),
        sender(one, target, 2),
        sender(one, target, 3, address=NOWHERE),
    ]
    assert Departure(senders).send() == [(senders[1], errno.EACCES), (senders[3], errno.EACCES)]
    assert come(target) == [(name, number) for name in (0, 2) for number in range(3)]


def test_only_what_is_laid_out_leaves(sockets: list[socket.socket]) -> None:
    one, _, target = sockets
    many = MAX_SEGMENTS + 5
    outgoing = sender(one, target, 7, many)
    for ready in (many, 0, 2, MAX_SEGMENTS, 1):
        outgoing.lay_out(ready)
        assert Departure([outgoing]).send() == []
        assert come(target) == [(7, number) for number in range(ready)]
    assert Departure([]).send() == []
