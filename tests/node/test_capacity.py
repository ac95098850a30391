"""What a host can hold is measured before it is promised."""

from __future__ import annotations

import pytest

from anonnet.crypto.suite import ANONNET_2026, load_suite
from anonnet.errors import OperatorError
from anonnet.ids import NodeId
from anonnet.node import capacity
from anonnet.node.capacity import Cost
from anonnet.proto.engine import Engine, python
from anonnet.proto.link import LinkPeer
from anonnet.proto.orders import Endpoint
from anonnet.proto.profile import parse_profile
from anonnet.spec import FORMATS, WIDE, Format


def link(profile: str, transport: str = "raw") -> LinkPeer:
    parsed = parse_profile(profile)
    endpoint = Endpoint(transport, "192.0.2.1", 0)
    return LinkPeer(NodeId(bytes(32)), bytes(32), endpoint, parsed, parsed.schedule(transport, 4))


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_a_cell_costs_something(engine: Engine, fmt: Format) -> None:
    cost = capacity.measure(ANONNET_2026, engine, fmt)
    assert 0 < cost.out < 1000
    assert 0 < cost.into < 1000


def test_both_ways_of_all_links_count() -> None:
    """100m: 9984 cells a second each way, 1252 bytes each."""
    cells = 100e6 / 8 / 1252
    cost = Cost(7.0, 9.0)  # and the kernel's: 3 + 1
    assert capacity.load([link("100m")], lambda _: cost) == pytest.approx(cells * 20e-6, rel=0.01)
    assert capacity.load([link("100m")] * 3, lambda _: cost) == pytest.approx(cells * 60e-6, rel=0.01)
    udp = 100e6 / 8 / 1260 * 18e-6
    assert capacity.load([link("100m", "udp")], lambda _: cost) == pytest.approx(udp, rel=0.01)
    lopsided = capacity.load([link("1m/8m")], lambda _: Cost(0.0, 100.0))
    assert lopsided == pytest.approx(8e6 / 8 / 1252 * 101e-6 + 1e6 / 8 / 1252 * 3e-6, rel=0.1)


def test_links_that_cannot_be_held_are_refused(engine: Engine) -> None:
    capacity.require([link("t3")] * 2, ANONNET_2026, engine)
    with pytest.raises(OperatorError, match=r"cells a second need \d+% of a core; 80% can be had"):
        capacity.require([link("10g")], ANONNET_2026, engine)


def test_the_suite_of_2003_is_measured_too() -> None:
    suite = load_suite("anonnet-2003")
    capacity.require([link("t1")] * 2, suite, python(suite))
    assert capacity.measure(suite, python(suite), WIDE).into > 1.0
