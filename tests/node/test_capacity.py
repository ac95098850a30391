"""What a host can hold is measured before it is promised."""

from __future__ import annotations

import pytest

from anonnet.crypto.suite import ANONNET_2026, load_suite
from anonnet.errors import OperatorError
from anonnet.ids import NodeId
from anonnet.node import capacity
from anonnet.node.capacity import Cost
from anonnet.proto.engine import PYTHON, Engine, python
from anonnet.proto.link import LinkPeer
from anonnet.proto.orders import Endpoint
from anonnet.proto.profile import parse_profile
from anonnet.spec import FORMATS, WIDE, Format


def link(profile: str, transport: str = "raw") -> LinkPeer:
    parsed = parse_profile(profile)
    endpoint = Endpoint(transport, "192.0.2.1", 0)
    return LinkPeer(NodeId(bytes(32)), bytes(32), endpoint, parsed, parsed.schedule(transport, 4))


TICKS_OF_2MS = 500 * 180e-6  # of a core, beside the cells


def test_threads_share_opening_and_sealing_and_nothing_else() -> None:
    needs = capacity.load([link("100m")], lambda _: Cost(7.0, 6.0, 3.0))
    kernels, layers, shared = (100e6 / 8 / 1252 * us * 1e-6 for us in (4, 3, 13))
    assert needs == pytest.approx((kernels + TICKS_OF_2MS, layers, shared), rel=0.01)
    assert needs.on(1) == pytest.approx(sum(needs), rel=0.01)
    assert needs.on(1) > needs.on(2) > needs.on(3) > needs.own + needs.layers


def test_a_second_thread_does_not_help_where_one_route_may_fill_a_link() -> None:
    """Its layers are one thread's. `python -m anonnet.bench.crew --links 8 --routes 8`: 1.5 us, then 1.75."""
    needs = capacity.Load(own=0.1, layers=0.2, shared=0.35)
    assert needs.on(2) > needs.on(1) > needs.on(8)


def test_short_ticks_cost_more_and_links_share_those_of_one_length() -> None:
    """180 us a tick: 18 % of a core with ticks of 1 ms, 3.6 % with 5."""
    free = Cost(0.0, 0.0, 0.0)
    one, two, slow = (
        capacity.load(links, lambda _: free).own
        for links in ([link("20m:1ms")], [link("20m:1ms")] * 2, [link("20m:5ms")])
    )
    cells = 20e6 / 8 / 1252 * 4e-6
    assert (one, two, slow) == pytest.approx((0.18 + cells, 0.18 + 2 * cells, 0.036 + cells), rel=0.01)


def test_as_many_threads_as_the_links_need(fast: Engine) -> None:
    """Slow links one; fast ones several, if there are cores; what was asked for, as far as there are."""

    def threads(profile: str, wanted: int | None = None, cores: int = 8, engine: Engine = fast) -> int:
        return capacity.require([link(profile)] * 2, ANONNET_2026, engine, wanted, cores)

    assert threads("modem") == threads("t1") == 1
    assert threads("t1", cores=1) == 1
    assert threads("t1", wanted=3) == 3
    assert threads("t1", wanted=3, cores=2) == 2
    assert threads("t1", wanted=3, engine=PYTHON) == 1
    enough = next(rate for rate in range(50, 2000, 50) if threads(f"{rate}m") > 1)
    with pytest.raises(OperatorError, match=r"or [2-8] data_plane\.threads"):
        threads("2g", wanted=1)
    assert threads(f"{enough}m", cores=1) == 1


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_a_cell_costs_something(engine: Engine, fmt: Format) -> None:
    cost = capacity.measure(ANONNET_2026, engine, fmt)
    assert all(0 < part < 1000 for part in cost)


def test_both_ways_of_all_links_count() -> None:
    """100m: 9984 cells a second each way, 1252 bytes each."""
    cells = 100e6 / 8 / 1252

    def of_cells(links: list[LinkPeer], cost: Cost) -> float:
        ticks = {link.schedule.tick_ns for link in links}
        return capacity.load(links, lambda _: cost).on(1) - sum(180e3 / tick for tick in ticks)

    cost = Cost(7.0, 6.0, 3.0)  # and the kernel's: 3 + 1
    assert of_cells([link("100m")], cost) == pytest.approx(cells * 20e-6, rel=0.01)
    assert of_cells([link("100m")] * 3, cost) == pytest.approx(cells * 60e-6, rel=0.01)
    udp = 100e6 / 8 / 1260 * 18e-6
    assert of_cells([link("100m", "udp")], cost) == pytest.approx(udp, rel=0.01)
    lopsided = of_cells([link("1m/8m")], Cost(0.0, 60.0, 40.0))
    assert lopsided == pytest.approx(8e6 / 8 / 1252 * 101e-6 + 1e6 / 8 / 1252 * 3e-6, rel=0.1)


def test_links_that_cannot_be_held_are_refused(engine: Engine) -> None:
    capacity.require([link("t3")] * 2, ANONNET_2026, engine)
    with pytest.raises(OperatorError, match=r"cells a second need \d+% of a core; 80% can be had"):
        capacity.require([link("10g")], ANONNET_2026, engine)


def test_the_suite_of_2003_is_measured_too() -> None:
    suite = load_suite("anonnet-2003")
    capacity.require([link("t1")] * 2, suite, python(suite))
    assert capacity.measure(suite, python(suite), WIDE).into > 1.0
