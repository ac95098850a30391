"""What a cell costs at one hop, in microseconds: `make bench`, or `python -m tests.bench --json FILE`.

    caller plane --> relay plane --> exit plane      one route, both ways, every slot of both links its own

The planes are the daemon's own, moved by hand; only the relay is timed. `seal` and `open` are timed on link
nulls, `layer` by itself, and `switch` is what the relay takes beyond those: finding the route, queueing,
pacing. `socket` is a send and a receive over the loopback. Medians, so that a busy machine disturbs little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import socket
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from anonnet.crypto.onion import Layer, LayerKeys
from anonnet.net.mmsg import Receiver, Sender
from anonnet.proto import orders as o
from anonnet.proto.inbox import STRIDE, Inbox, Outbox
from anonnet.proto.plane import Plane
from anonnet.spec import FORMATS, IP_PROTOCOL, Format
from anonnet.wire.cell import rows

TARGET_US: Final = 12.0
LIMIT_US: Final = 15.0
TICK_NS: Final = 5_000_000
CELLS: Final = 22  # per tick and link: t3 with wide cells
TICKS: Final = 600
ROUTE_ID: Final = 256
RATE: Final = CELLS * o.RATE_UNIT // TICK_NS
ENDPOINT: Final = o.Endpoint("raw", "192.0.2.1", 0)
LEFT, RIGHT, ROUTE = 1, 2, 1


class Wire:
    """Carries one link's outbox to the plane at its other end."""

    def __init__(self, source: Plane, link: int, target: Plane) -> None:
        self.source, self.link, self.target = source, source.links[link], target
        self.inbox = Inbox(CELLS, 0, lambda index: ENDPOINT)

    def carry(self) -> None:
        """Copy what is ready; `deliver` takes it up."""
        for index, view in enumerate(self.link.outbox.views[: self.link.ready]):
            self.inbox.memory[index * STRIDE : index * STRIDE + len(view)] = view
        self.inbox.lengths = [self.link.outbox.length] * self.link.ready

    def deliver(self, now: int) -> None:
        """Let the other end open and switch them."""
        self.target.receive(self.inbox, now)


def connect(plane: Plane, handle: int, fmt: Format, send_key: bytes, receive_key: bytes) -> None:
    """Give a plane a link with a session."""
    plane.obey(o.AddLink(handle, fmt.code, ENDPOINT, TICK_NS, CELLS, CELLS))
    plane.obey(o.SetSession(handle, handle, handle, send_key, receive_key, confirm=False))


def join(left: Plane, left_link: int, right: Plane, right_link: int, fmt: Format) -> tuple[Wire, Wire]:
    """Link two planes; return the wires there and back. Both ends use the same handle as receiver index."""
    assert left_link == right_link
    there, back = os.urandom(32), os.urandom(32)
    connect(left, left_link, fmt, there, back)
    connect(right, right_link, fmt, back, there)
    return Wire(left, left_link, right), Wire(right, right_link, left)


def tick(plane: Plane) -> int:
    """Seal a plane's next tick and count it as sent; return its time."""
    (beat,) = plane.beats.values()
    links = plane.prepare(beat)
    now = beat.deadline
    plane.emitted(beat, links, now)
    return now


def layer_keys() -> LayerKeys:
    """Return fresh subkeys."""
    return LayerKeys(os.urandom(32), os.urandom(32), os.urandom(32))


def measure(work: Callable[[], object], cells: int, times: int = TICKS) -> float:
    """Return the median cost of `work` in microseconds for each of its `cells`."""
    costs = []
    for _ in range(times):
        start = time.perf_counter_ns()
        work()
        costs.append(time.perf_counter_ns() - start)
    return statistics.median(costs) / cells / 1000


def bench_relay(fmt: Format) -> float:
    """Return what a relay takes from opened datagram to sealed datagram, sockets apart."""
    caller, relay, exit_ = (Plane(0, os.urandom) for _ in range(3))
    forth, back = join(caller, LEFT, relay, LEFT, fmt)
    onward, homeward = join(relay, RIGHT, exit_, RIGHT, fmt)
    hops = [(layer_keys(), layer_keys(), shift) for shift in (7, 11)]
    caller.obey(o.AddCallerRoute(ROUTE, LEFT, ROUTE_ID, RATE, RATE))
    for plane, link, hop in ((relay, LEFT, hops[0]), (exit_, RIGHT, hops[1])):
        plane.obey(o.AddRelayRoute(ROUTE, link, ROUTE_ID, RATE, RATE, *hop))
        caller.obey(o.AddHop(ROUTE, *hop, 0))
    relay.obey(o.ExtendRelayRoute(ROUTE, RIGHT, ROUTE_ID))
    costs = []
    for _ in range(TICKS):
        tick(caller)
        tick(exit_)
        forth.carry()
        homeward.carry()
        now = next(iter(relay.beats.values())).deadline
        start = time.perf_counter_ns()
        forth.deliver(now)
        homeward.deliver(now)
        tick(relay)
        costs.append(time.perf_counter_ns() - start)
        back.carry()
        onward.carry()
        back.deliver(now)
        onward.deliver(now)
    (seen,) = [report for report in exit_.reports if isinstance(report, o.Stats)][-1].routes
    assert seen.received > TICKS * CELLS / 2
    assert seen.missing <= 2 * CELLS, "the exit must recognise all but the relay's first substitutes"
    return statistics.median(costs) / (2 * CELLS) / 1000


def bench_nulls(fmt: Format) -> tuple[float, float]:
    """Return what sealing and opening a link null take."""
    left, right = Plane(0, os.urandom), Plane(0, os.urandom)
    there, _ = join(left, LEFT, right, LEFT, fmt)
    opened: list[float] = []

    def one() -> None:
        tick(left)

    def carry_and_open() -> None:
        there.carry()
        start = time.perf_counter_ns()
        there.deliver(0)
        opened.append(time.perf_counter_ns() - start)

    sealed: list[float] = []
    for _ in range(TICKS):
        sealed.append(measure(one, CELLS, 1))
        carry_and_open()
    return statistics.median(sealed), statistics.median(opened) / CELLS / 1000


def bench_layer(fmt: Format) -> float:
    """Return what one onion layer takes."""
    layer, (row,) = Layer(layer_keys()), rows(fmt, 1)
    return measure(lambda: [layer.encipher(slot, row, row) for slot in range(CELLS)], CELLS)


def bench_socket(fmt: Format, transport: str) -> float:
    """Return what a send and a receive take, in batches of a tick, over the loopback."""
    kind = (socket.SOCK_RAW, IP_PROTOCOL) if transport == "raw" else (socket.SOCK_DGRAM, 0)
    with socket.socket(socket.AF_INET, *kind) as receiving, socket.socket(socket.AF_INET, *kind) as sending:
        receiving.bind(("127.0.0.1", 0))
        receiving.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        port = receiving.getsockname()[1] if transport == "udp" else 0
        outbox = Outbox(fmt, CELLS)
        sender = Sender(sending, o.Endpoint(transport, "127.0.0.1", port), outbox)
        receiver = Receiver(receiving, transport)

        def both() -> None:
            sender.send(CELLS)
            receiver.receive()

        cost = measure(both, CELLS)
        assert len(receiver.inbox.lengths) == CELLS
        return cost


def bench(fmt: Format) -> dict[str, float]:
    """Return the costs of one format."""
    seal, open_ = bench_nulls(fmt)
    layer, relay, udp = bench_layer(fmt), bench_relay(fmt), bench_socket(fmt, "udp")
    wire = bench_socket(fmt, "raw") if os.geteuid() == 0 else udp
    costs = {"seal": seal, "open": open_, "layer": layer, "switch": relay - seal - open_ - layer}
    return {**costs, "socket": wire, "socket_udp": udp, "relay_total": relay + wire}


def main() -> None:
    """Print a table, and write JSON if told where."""
    parser = argparse.ArgumentParser(description="What a cell costs at one hop.")
    parser.add_argument("--json", type=Path, help="write the result there")
    arguments = parser.parse_args()
    results = {fmt.name: bench(fmt) for fmt in FORMATS.values()}
    print("microseconds per cell and hop, medians")
    print(f"{'':<12}" + "".join(f"{name:>10}" for name in results))
    for key in next(iter(results.values())):
        print(f"{key:<12}" + "".join(f"{costs[key]:>10.2f}" for costs in results.values()))
    total = results["wide"]["relay_total"]
    verdict = "within" if total <= LIMIT_US else "OVER"
    print(f"relay total, wide: {verdict} the limit of {LIMIT_US:g} (target {TARGET_US:g})")
    if arguments.json:
        host = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
        report = {"unit": "us per cell and hop", "host": host, "limit": LIMIT_US, "results": results}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
