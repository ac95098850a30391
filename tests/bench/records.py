"""Records of a benchmark at which all is well, to be spoilt where a test likes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from anonnet.bench import chain, relay
from anonnet.bench.report import Relay
from anonnet.proto.profile import parse_profile

IDLE = chain.Echoes(10, 0, 12.0, 12.0, 13.0)


def a_relay(transport: str, cost: float, rate: str = "t3") -> Relay:
    """A relay that takes so many us of CPU a cell."""
    run = relay.Forwarded(1, 0, 1.0, 0.0, 0.0, 0.0, 0.0, 0)
    return Relay(rate, transport, 0, 1, 1, cost, 1e6 / cost, [run])


def a_flow(**other: Any) -> chain.Flow:
    """A flow in which all is well; `other` replaces fields of it."""
    good = chain.Flow(
        mbit=(260.0,), share=0.9, resent=0, echoes=IDLE, key_ms=12.0, core={}, cpu_s_per_gb_padded=30.0,
        cpu_s_per_gb_carried=60.0, skipped={"r1": 0, "r2": 0}, late={}, stalls_ms=[], stalls_excuse=0,
    )  # fmt: skip
    return replace(good, **other)


def a_path(rate: str, transport: str = "raw", **other: Any) -> chain.Measured:
    """A chain at which all is well; `other` replaces fields of it, or of its flow."""
    names = {field.name for field in fields(chain.Flow)}
    flow = a_flow(**{name: value for name, value in other.items() if name in names})
    good = chain.Measured(
        rate=rate, transport=transport, hops=3, delay_ms=0, wire_mbit=parse_profile(rate).rate_in / 1e6,
        tick_ms=2.0, cells_per_tick=20, load=0.0, plain=None, up_s=1.0, circuit_ms=180.0, first_byte_s=1.5,
        setup_ms=[], idle=IDLE, key_ms=12.0, get_ms=30.0, get_by_name_ms=50.0, flows={"down": flow},
        memory={},
    )  # fmt: skip
    return replace(good, **{name: value for name, value in other.items() if name not in names})
