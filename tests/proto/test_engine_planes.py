"""Whole planes of the native engine, on any threads, and of its reference: the same, whatever comes."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from anonnet.proto import orders as o
from anonnet.proto.engine import Engine
from anonnet.spec import INNER4_CALLER, WIDE, Format
from tests.proto.twins import FORMAT, HERE, LEFT, RIGHT, ROUTE, SEED, THERE, TICK, Chain, packet

PASSES = ("out", "in", "signal", "answer", "control")
OTHERS = (*PASSES, "bad", "good", "stall", "rekey", "swap", "move", "relay")
ACT = st.sampled_from(("tick",) * 8 + OTHERS)


def act(chain: Chain, what: str) -> None:  # noqa: PLR0912
    random = chain.random
    if what in ("bad", "good"):
        chain.loss = 0.2 if what == "bad" else 0.0
    elif what == "stall":
        chain.tick(late=random.randrange(20 * TICK))
    elif what == "out":
        chain.caller.packets("caller", packet(random, INNER4_CALLER, "198.51.100.7"))
    elif what == "in":
        chain.exit.packets("exit", packet(random, "198.51.100.7", "100.127.0.9"))
    elif what == "signal":
        chain.caller.obey(o.SendSignal(ROUTE, random.randrange(2), [random.randbytes(99)]))
    elif what == "answer":
        for twins in (chain.relay, chain.exit):
            twins.obey(o.SendSignal(ROUTE, 0, [random.randbytes(99)]))
    elif what == "control":
        frame = random.randbytes(random.randrange(chain.fmt.body_len))
        for twins, link in ((chain.caller, LEFT), (chain.relay, RIGHT)):
            twins.obey(o.SendControl(link, [frame, frame]))
    elif what == "rekey":
        chain.rekey(chain.caller, chain.relay, LEFT, confirm=True)
    elif what == "swap":
        chain.rekey(chain.exit, chain.relay, RIGHT, confirm=False)
    elif what == "move":
        chain.source = random.choice([HERE, THERE])
    elif what == "relay":
        chain.end()
        chain.lay()
        chain.extend()
    else:
        chain.tick()


@given(fmt=FORMAT, seed=SEED, acts=st.lists(ACT, max_size=60))
@settings(max_examples=200)
def test_planes(crew: Engine, fmt: Format, seed: int, acts: list[str]) -> None:
    """Routes come and go, packets, signals, control pass, keys change, cells are lost, harmed, repeated."""
    chain = Chain(crew, seed, fmt)
    for _ in range(3):
        chain.tick()
    chain.extend()
    for what in acts:
        act(chain, what)
    for twins in (chain.caller, chain.relay, chain.exit):
        twins.obey(o.DropSession(LEFT if twins is not chain.exit else RIGHT))
        twins.compare()


def test_the_control_packets_do_pass(crew: Engine) -> None:
    """The same chain, without harm: what one end sends comes out of the other, and control is heard."""
    chain = Chain(crew, 1, WIDE)
    chain.extend()
    received: list[bytes] = []
    sent = [packet(Random(n), INNER4_CALLER, "198.51.100.7") for n in range(20)]
    tuns = chain.exit.planes[1].to_tun
    compare = chain.exit.compare

    def watch() -> list[o.Report]:
        received.extend(bytes(one) for one in tuns["exit"])
        return compare()

    chain.exit.compare = watch  # type: ignore[method-assign]
    act(chain, "control")
    for _ in range(10):
        chain.tick()
    for one in sent:
        chain.caller.packets("caller", one)
        for _ in range(3):
            chain.tick()
    for _ in range(10):
        chain.tick()
    assert [one[28:] for one in received] == [one[28:] for one in sent]
    assert chain.delivered == 2
    (stats,) = chain.relay.planes[1]._stats(0).routes
    assert stats.received > 200
