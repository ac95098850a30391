r"""Circuits of several routes: throughput adds up, and a download outlives the relays that it passes.

    lanes  caller ---- r1 ---- r2 ---- x1 ~~~ web      four  caller ---- r1 ---- r2 ---- x1 ~~~ web
              |------- r3 ---- r4 -----|                        \        \/      /
              '------- r5 ---- r6 -----'                         \       /\     /
                                                                  -- r3 ---- r4

One download runs while relays are killed, restarted, frozen and cut off. With four relays, a route that is
lost cannot be had again before its relay is back: all that while the flow has one route.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from itertools import count

import pytest

from anonnet.lab import network, nodes, services
from anonnet.lab.content import content
from anonnet.lab.place import CALLER
from anonnet.lab.stalls import StallWatch
from anonnet.lab.weather import Rule
from anonnet.node import api
from tests.lab.live import FULL, SLOW, WEB4, LiveLab, again, live, until
from tests.lab.reader import Reading

pytestmark = pytest.mark.root

RATE = "10m"
FILE = "1GB"  # more than anybody waits for: a reader is stopped, and what came is compared
DOWNLOAD = 100_000_000 if FULL else 0  # bytes that must come at least
WINDOW = 15.0 if FULL else 4.0  # seconds of each measurement of throughput
HOLD = 2.5 if FULL else 2.0  # seconds that a fault lasts: longer than a route is waited for
OUTAGE = 25.0 if FULL else 4.0  # of all routes at once; an exit keeps a circuit for 60
BACK = 40.0  # until all routes are there again
FLOWING = 0.5  # seconds of the links' rate
RETURN = 7.0  # seconds from the end of an outage of links until routes are back
STRIPE_STALL = 2.0
SPARED_STALL = 0.2 if FULL else 1.0  # of mirror, and of k of n
# One route's share of a link's rate, and what more of them carry, times one.
ADDS_UP = {1: 0.8, 2: 1.8, 3: 2.6} if FULL else {1: 0.7, 2: 1.6, 3: 2.3}

Fault = Callable[[LiveLab, Sequence[str]], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def lanes() -> Iterator[LiveLab]:
    with live("lanes", relays=6, fan_out=1, rate=RATE) as lab:
        yield lab


@pytest.fixture(scope="module")
def four() -> Iterator[LiveLab]:
    with live("four", rate=RATE) as lab:
        yield lab


# -- what may happen to relays --------------------------------------------------------------------


@contextmanager
def killed(lab: LiveLab, hosts: Sequence[str]) -> Iterator[None]:
    """As by a power cut; they come back after the block."""
    for host in hosts:
        lab.kill(host)
    yield
    for host in hosts:
        lab.start(host)


@contextmanager
def restarted(lab: LiveLab, hosts: Sequence[str]) -> Iterator[None]:
    """As their operators do it: they take their leave."""
    for host in hosts:
        services.stop(lab.place, host, "node", signal.SIGTERM, SLOW)
        lab.start(host)
    yield


@contextmanager
def frozen(lab: LiveLab, hosts: Sequence[str]) -> Iterator[None]:
    """All processes of theirs stand still."""
    pids = [pid for host in hosts for pid in lab.daemon_pids(host)]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def cut_off(lab: LiveLab, hosts: Sequence[str]) -> Iterator[None]:
    """The router drops all between them and other nodes."""
    network.set_weather(lab.place, Rule(drop=1.0), hosts)
    yield
    network.clear_weather(lab.place)


FAULTS: Sequence[Fault] = (killed, frozen, cut_off, restarted)


# -- the download ---------------------------------------------------------------------------------


class Download:
    """One TCP connection of the caller's that reads for as long as the block takes."""

    def __init__(self, lab: LiveLab, routes: int) -> None:
        self.lab = lab
        self.routes = routes
        self._log = lab.place.of(CALLER) / "reader.log"
        self._out = lab.place.of(CALLER) / "reader.out"

    def __enter__(self) -> Download:
        command = [sys.executable, "-m", "tests.lab.reader", WEB4, FILE, str(self._log)]
        self._log.unlink(missing_ok=True)
        self._running = self.lab.running(CALLER, *command, stdout=self._out.open("w"))
        self._reader = self._running.__enter__()
        until(self._log.exists, SLOW, "a connection")
        self._until_more(0, SLOW)
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if exc[0] is None:
                self._finish()
        finally:
            self._running.__exit__(*exc)

    @property
    def reading(self) -> Reading:
        """What has come so far."""
        return Reading(self._log)

    def open_routes(self) -> tuple[api.RouteStatus, ...]:
        """The circuit's routes that carry data."""
        return tuple(r for c in self.lab.status().circuits for r in c.routes if r.state == "open")

    def paths(self) -> list[list[str]]:
        """The relays of each route."""
        names = nodes.names(self.lab.place)
        return [[names[hop] for hop in route.hops[:-1]] for route in self.open_routes()]

    def survive(self, fault: Fault, hosts: Sequence[str], stall: float, hold: float = HOLD) -> None:
        """Let something happen to relays, and all routes come back: nobody waited longer than `stall`."""
        gap = again(lambda: self._strike(fault, hosts, stall, hold), lambda gap: gap <= stall)
        assert gap <= stall

    def _strike(self, fault: Fault, hosts: Sequence[str], stall: float, hold: float) -> float:
        """Return how long the reader had to wait (seconds), but for the machine's longest stall."""
        began = time.monotonic_ns()
        with StallWatch() as watch:
            with fault(self.lab, hosts):
                time.sleep(hold)
            links = until(self.lab.links_up, BACK, "the links after it")
            back = until(lambda: len(self.open_routes()) == self.routes, BACK, "all routes")
            self._until_more(self.reading.size, stall + SLOW)
        gap = self.reading.longest_gap(began, time.monotonic_ns())
        excused = watch.longest / 1e9
        rate = self.reading.rate(began, time.monotonic_ns()) / 1e6
        print(f"{' and '.join(hosts)} {fault.__name__} for {hold:g} s: stall {gap:.3f} s, {rate:.1f} Mbit/s"
              f" meanwhile; links back {links:.1f}, routes {back:.1f} s later")  # fmt: skip
        assert self._reader.poll() is None, self._out.read_text()
        return gap - excused

    def throughput(self) -> float:
        """Bit/s of the next `WINDOW`."""
        began = time.monotonic_ns()
        time.sleep(WINDOW)
        return self.reading.rate(began, time.monotonic_ns())

    def spared(self) -> float:
        """How long a reader may wait when other routes carry what one loses.

        Below 10m a round trip is long, and whatever segment a queue drops makes it wait so without any fault.
        """
        if self.lab.rate >= 10_000_000:
            return SPARED_STALL
        began = time.monotonic_ns()
        time.sleep(WINDOW)
        return SPARED_STALL + self.reading.longest_gap(began, time.monotonic_ns())

    def _until_more(self, size: int, seconds: float) -> None:
        enough = size + FLOWING * self.lab.rate / 8
        until(lambda: self.reading.size > enough, seconds, f"{FLOWING:g} s worth of bytes")

    def _finish(self) -> None:
        until(lambda: self.reading.size >= DOWNLOAD, 300, f"{DOWNLOAD} bytes")
        self._reader.send_signal(signal.SIGTERM)
        assert self._reader.wait(SLOW) == 0
        size, digest = self._out.read_text().split()
        whole = sha256()
        for chunk in content(FILE, 0, int(size)):
            whole.update(chunk)
        assert digest == whole.hexdigest()
        print(f"{int(size) / 1e6:.0f} MB over one connection, checksum as it should be")


def begin(lab: LiveLab, routes: int, redundancy: str) -> Download:
    """A circuit as wished, all its routes open, and a download through it."""
    lab.up("--routes", str(routes), "--redundancy", redundancy)
    download = Download(lab, routes)
    until(lambda: len(download.open_routes()) == routes, BACK, f"{routes} routes")
    return download


# -- what they do to the download -----------------------------------------------------------------


def test_throughput_adds_up(lanes: LiveLab) -> None:
    rates = {}
    for routes in (1, 2, 3):
        wanted = ADDS_UP[routes] * rates.get(1, lanes.rate)
        with begin(lanes, routes, "stripe") as download:
            time.sleep(2)
            rates[routes] = again(download.throughput, lambda rate, wanted=wanted: rate >= wanted)  # type: ignore[misc]
        assert rates[routes] >= wanted
        times = rates[routes] / rates[1]
        print(f"{routes} routes: {rates[routes] / 1e6:.2f} Mbit/s, {times:.2f} times that of one")


def test_two_of_three_shares_suffice(lanes: LiveLab) -> None:
    with begin(lanes, 3, "2-of-n") as download:
        stall = download.spared()
        for fault, number in zip(FAULTS if FULL else FAULTS[:2], count()):
            download.survive(fault, [download.paths()[0][number % 2]], stall)
        download.survive(frozen, download.paths()[1], stall)


@pytest.mark.parametrize("redundancy", ["stripe", "mirror"])
def test_a_download_outlives_its_relays(four: LiveLab, redundancy: str) -> None:
    with begin(four, 2, redundancy) as download:
        stall = STRIPE_STALL if redundancy == "stripe" else download.spared()
        for number in range(4):
            # Each relay in turn; each fault in turn, or on each relay each.
            for fault in FAULTS if FULL else [FAULTS[number]]:
                one, other = sorted(download.paths())
                download.survive(fault, [(*one, *other)[number]], stall)
        for fault in FAULTS[:3] if FULL else [frozen]:
            download.survive(fault, download.paths()[0], stall)


def test_an_outage_of_all_routes_costs_the_time_it_takes(four: LiveLab) -> None:
    with begin(four, 2, "stripe") as download:
        relays = [relay for path in download.paths() for relay in path]
        before = [route.id for route in download.open_routes()]
        download.survive(frozen, relays, 1 + STRIPE_STALL, 1.0)
        assert [route.id for route in download.open_routes()] == before
        # TCP doubles its patience: it tries again up to as long after an outage as that took, and this one
        # takes until links and routes are back.
        download.survive(cut_off, relays, 2 * (OUTAGE + RETURN) + STRIPE_STALL, OUTAGE)
