"""How what was measured stands to the targets: a line for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from anonnet.bench.chain import Flow, Measured
from anonnet.bench.emission import Emission
from anonnet.bench.footprint import Footprint
from anonnet.bench.parts import Parts
from anonnet.bench.report import RATE, Micro, Node, Report
from anonnet.bench.scaling import ADDED, RELAYS, Cost, Scaling, Whole
from anonnet.bench.sockets import SocketCost

MET: Final = "met"
MISSED: Final = "MISSED"
RELAY_US: Final = {"raw": 12.0, "udp": 7.0}  # CPU for each cell
RELAY_CELLS: Final = {"raw": 80_000, "udp": 140_000}  # a second, by one core
IDLE_MB: Final = 60.0  # 10^6 bytes: control and data plane of an idle node
ROUTE_BYTES: Final = 8_000
LINK_BYTES: Final = 200_000
GROWTH: Final = 1.15  # of a cell's cost, from one to many links or routes
GROWN: Final = (  # from how many links on each side and routes to how many
    ("1 to 500 routes", (1, 1), (1, 500)),
    ("1 to 64 links with 64 routes", (1, 64), (64, 64)),
    ("1 to 64 links with 500 routes", (1, 500), (64, 500)),
)
MOST_LINKS: Final = 64
# Share of a relay's cells that were not there in time: with more, its row says nothing of what a cell costs.
# A route of not quite a cell a tick finds none now and then; each tick that somebody skips is 0.3 %.
LOST: Final = 0.02
HELD_MBIT: Final = {"raw": 150, "udp": 250}  # of a link, with no tick skipped
GOODPUT: Final = 0.85  # share of the wire
GOODPUT_FAR: Final = 0.8  # the same where the router delays each link by FAR_MS, at RATE
FAR_MS: Final = 20
CPU_S_PER_GB: Final = 40.0  # of slots' content, both ways
CIRCUIT_MBIT: Final = 150.0  # a single circuit: other tunnels on such a machine
STRETCH_MBIT: Final = 300.0  # both ways at once: the best of them has that one way
ECHO_TICKS: Final = 8
ECHO_MS: Final = 3.0
ECHO_LOADED: Final = 2.0  # times an idle echo
PAGE_MS: Final = 47.0  # at PAGE_RATE
PAGE_RATE: Final = "100m"
SETUP_MS: Final = 150.0
SETUP_ROUND_TRIPS: Final = 3
FIRST_BYTE_S: Final = 2.0
FAST_MBIT: Final = 10  # from which that is judged
EMISSION_STD_US: Final = 100.0


def verdicts(report: Report) -> Iterator[str]:
    """Say how it stands to each target that these groups can tell of."""
    if report.micro:
        yield from _micro(report.micro)
    if report.node:
        yield from _node(report.node, report.micro)
    for path in report.lab:
        yield from _path(path)
    yield from _circuit([path for path in report.lab if path.wire_mbit >= min(HELD_MBIT.values())])
    if report.scaling:
        yield from _scaling(report.scaling)
    if report.footprint:
        yield from _footprint(report.footprint)
    if report.emission:
        yield from _emission(report.emission)


def _most(what: str, value: float, unit: str, limit: float, form: str = ".1f") -> str:
    return _line(value <= limit, what, f"{value:{form}}{unit} (at most {limit:{form}})")


def _least(what: str, value: float, unit: str, limit: float, form: str = ".1f") -> str:
    return _line(value >= limit, what, f"{value:{form}}{unit} (at least {limit:{form}})")


def _line(held: bool, what: str, figures: str) -> str:
    return f"{MET if held else MISSED:8}{what}: {figures}"


def _micro(micro: Micro) -> Iterator[str]:
    for name, part in micro.parts.items():
        for transport, kernel in micro.sockets[name].items():
            if transport in RELAY_US:
                yield _most(f"hot, {name}, {transport}: own part of a cell, kernel's and ciphers' beside it",
                            max(0, part.switch), " us", _needed(part, kernel), ".2f")  # fmt: skip


def _needed(part: Parts, kernel: SocketCost) -> float:
    """What kernel and ciphers take for a cell, us."""
    return kernel.both + part.open + part.encipher + part.seal


def _node(node: Node, micro: Micro | None) -> Iterator[str]:
    for one in node.relays:
        if not one.busy and (one.rate, one.links, one.routes) == (RATE, 1, 1):
            yield _most(f"relay, {one.transport}", one.cpu_us, " us a cell", RELAY_US[one.transport])
            if one.sampled and one.sampled.shares:
                own, hot = one.sampled.shares.own * one.sampled.cpu_us, ""
                if micro and one.transport in micro.sockets["wide"]:
                    needed = _needed(micro.parts["wide"], micro.sockets["wide"][one.transport])
                    hot = f"; by hot figures {one.cpu_us - needed:.1f} and {needed:.1f}"
                yield _most(f"relay, {one.transport}: own part of it, kernel's and ciphers' beside it{hot}",
                            own, " us a cell", one.cpu_us - own)  # fmt: skip
    for transport, least in RELAY_CELLS.items():
        among = [relay for relay in node.relays if relay.transport == transport]
        if among:
            one = max(among, key=lambda relay: relay.cells_per_core)
            yield _least(f"relay, {transport}, at its best ({one.rate})", one.cells_per_core,
                         " cells a second and core", least, ",.0f")  # fmt: skip
    if node.memory:
        mib = sum(process.rss for name, process in node.memory.items() if name != "keeper")
        yield _most("control and data plane of an idle node", mib * 2**20 / 1e6, " MB resident", IDLE_MB)


def _path(path: Measured) -> Iterator[str]:
    name = path.name
    if path.delay_ms:
        if (path.rate, path.delay_ms) == (RATE, FAR_MS) and "down" in path.flows:
            share = path.flows["down"].share
            yield _least(f"{name}: goodput down", share, " of the wire", GOODPUT_FAR, ".1%")
    else:
        yield _most(f"{name}: echo, and 8 ticks and 3 ms", path.idle.mean, " ms",
                    ECHO_TICKS * path.tick_ms + ECHO_MS)  # fmt: skip
        for kind, flow in path.flows.items():
            yield _most(f"{name}: echo beside a flow {kind}, times the idle one",
                        flow.echoes.mean / path.idle.mean, "", ECHO_LOADED)  # fmt: skip
        if path.rate == PAGE_RATE and path.get_ms:
            yield _most(f"{name}: small page", path.get_ms, " ms", PAGE_MS)
    if path.wire_mbit == HELD_MBIT[path.transport] and not path.delay_ms:
        for kind, flow in path.flows.items():
            yield from _held(f"{name}, {kind}", flow)
    limit = SETUP_MS + SETUP_ROUND_TRIPS * path.idle.mean
    yield _most(f"{name}: a circuit, and 150 ms and three echoes", path.circuit_ms, " ms", limit, ".0f")
    if path.wire_mbit >= FAST_MBIT and not path.delay_ms:
        yield _most(f"{name}: `up` until the first byte", path.first_byte_s, " s", FIRST_BYTE_S)


def _circuit(fastest: list[Measured]) -> Iterator[str]:
    what = "goodput of a single circuit, at its best"
    if fastest:
        most = max(max(flow.mbit) for path in fastest for flow in path.flows.values())
        yield _least(what, most, " Mbit/s", CIRCUIT_MBIT)
    both = [min(path.flows["both"].mbit) for path in fastest if "both" in path.flows]
    if both:
        yield _least(f"{what}, both ways at once (stretch)", max(both), " Mbit/s each way", STRETCH_MBIT)


def _held(name: str, flow: Flow) -> Iterator[str]:
    """What the fastest chains must hold."""
    yield _least(f"{name}: goodput", flow.share, " of the wire", GOODPUT, ".1%")
    yield _most(f"{name}: CPU", flow.cpu_s_per_gb_padded, " s a GB padded", CPU_S_PER_GB, ".0f")
    what = f"{name}: ticks skipped by one node (stalls excuse {flow.stalls_excuse})"
    yield _most(what, max(flow.skipped.values()), "", 0, ".0f")


def _scaling(scaling: Scaling) -> Iterator[str]:
    yield from _growth("cost of a cell", scaling.costs)
    for load in RELAYS:
        for transport in RELAY_US:
            rows = [one for one in scaling.relays if (one.load, one.transport) == (load, transport)]
            if rows:
                yield from _relays(f"cost of a cell, whole relay, {load}, {transport}", rows)


def _relays(name: str, rows: Sequence[Whole]) -> Iterator[str]:
    if rows[0].load == ADDED:
        costs = {one.links: one.us for one in rows}
        what = f"{name}, 1 to {MOST_LINKS} with a route each, times"
        yield _most(what, costs[MOST_LINKS] / costs[1], "", GROWTH, ".2f")
    else:
        yield from _growth(name, rows)
    yield _most(f"{name}: cells lost, at worst", max(one.missed for one in rows), "", LOST, ".1%")


def _growth(name: str, measured: Sequence[Cost]) -> Iterator[str]:
    costs = {(one.links, one.routes): one.us for one in measured}
    for what, few, many in GROWN:
        if few in costs and many in costs:
            yield _most(f"{name}, {what}, times", costs[many] / costs[few], "", GROWTH, ".2f")


def _footprint(footprint: Footprint) -> Iterator[str]:
    yield _most("memory of a route through a relay", footprint.route, " bytes", ROUTE_BYTES, ",.0f")
    yield _most("memory of a link", footprint.link, " bytes", LINK_BYTES, ",.0f")


def _emission(emission: Emission) -> Iterator[str]:
    worst = max(max(run.idle_std_us, run.loaded_std_us) for run in emission.runs)
    yield _most("emission: standard deviation, at worst", worst, " us", EMISSION_STD_US, ".0f")
    least = min(run.p_loaded for run in emission.runs)
    control = "one too" if emission.control_found else "none"
    figures = f"p = {least:.2g} at the least of {len(emission.runs)} (idle against idle: {control})"
    yield _line(not emission.found, "emission: no difference between idle and loaded", figures)
