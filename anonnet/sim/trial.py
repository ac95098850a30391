"""One fault schedule lived through, in a network of three rows, and what must hold during and after it.

During: no packet comes twice, altered, or before one sent earlier (reassembly promises strict order within a
circuit, so that is the tolerance: none); slots promised are the sum over routes, at every node; nothing that
waits is beyond its cap. After: links come back, packets flow again within `RECOVERY`; when the circuit is
closed, every node holds what it held before there was one. And on every wire that no fault touched, the
observer saw what it sees of the idle network: same times, sizes, types, counters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from anonnet.proto.exits import LINGER_NS
from anonnet.proto.keeper import CircuitState
from anonnet.proto.redundancy import Redundancy
from anonnet.proto.rekey import REKEY_NS
from anonnet.sim.books import all_holdings, check_both_ends, check_memory, check_slots
from anonnet.sim.clock import MS, SECOND
from anonnet.sim.network import Sent, Wire
from anonnet.sim.schedule import LONGEST, OF_NODES, OF_RELAYS, WITHIN, Fault, Weather, draw, touched
from anonnet.sim.setup import LINKS, NAMES, links_up
from anonnet.sim.simnode import Reference, SimNode
from anonnet.sim.traffic import Traffic
from anonnet.sim.world import World
from anonnet.wire.control import Reason

REKEYED: Final = REKEY_NS - 3 * SECOND  # a network of this age takes fresh keys while faults go on
PROFILES: Final = (("300k:wide", 3 * SECOND), ("80k:narrow", 57 * SECOND), ("300k:wide", REKEYED))
CHECK_EVERY: Final = 100 * MS
PATIENCE: Final = 8 * SECOND  # with the first set-up; half of the schedules do not wait for it
RECOVERY: Final = 45 * SECOND  # after the last fault is over
FLOWS: Final = 10  # packets, sent after that, that must come each way
LEAVE: Final = 3 * SECOND  # for everybody to hear that the circuit is closed

Trace = dict[Wire, list[Sent]]


@dataclass
class Outcome:
    """What became of one schedule; `trouble` is empty if all held."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    trouble: str = ""
    recovery: int = 0  # ns from the end of the last fault
    lived: int = 0  # virtual ns
    sent: int = 0  # packets, each way
    out: int = 0
    back: int = 0
    wires: int = 0  # compared
    datagrams: int = 0  # compared


def ready(kind: int) -> World:
    """Make a network with a profile and of an age as `PROFILES` says."""
    profile, age = PROFILES[kind]
    world = World(kind, profile)
    world.build(NAMES, LINKS, ["exit"], dict.fromkeys(NAMES, Reference))
    world.run(age)
    assert links_up(world), "links did not come up"
    world.network.trace = []
    return world


def idle(world: World) -> Trace:
    """Return what an observer sees of a network in which nothing happens, for as long as a trial may take."""
    world.run(PATIENCE + WITHIN + LONGEST + RECOVERY + LEAVE + SECOND)
    return by_wire(world.network.trace or [])


def by_wire(trace: Sequence[Sent]) -> Trace:
    """Sort a trace."""
    wires: Trace = defaultdict(list)
    for sent in trace:
        wires[sent.source, sent.target].append(sent)
    return wires


class Trial:
    """A schedule in a network of its own. The host at the caller wants its circuit back whatever happens."""

    def __init__(self, seed: int, world: World) -> None:
        self.world = world
        self.caller = world.nodes["caller"]
        self._random = world.stream(f"{seed} trial")
        self.outcome = Outcome(seed, draw(seed, NAMES, LINKS))
        self._wish = (self._random.choice((1, 2, 3)), self._random.choice((0, 1, 2)))
        self._came = {"out": -1, "back": -1}
        self._fresh = dict.fromkeys(self._came, 0)
        self._since: int | None = None  # number of the first packet sent after the faults
        world.network.random.seed(f"{seed} network")
        self.caller.core.random(self._random.randrange(64))  # other paths than those of another seed
        self.weather = Weather(world.network, {name: node.address for name, node in world.nodes.items()})

    def live(self, without: Trace) -> Outcome:
        """Run it, and compare with the wires `without` faults."""
        world, outcome = self.world, self.outcome
        before = all_holdings(world)
        start = world.now
        try:
            self._up()
            traffic = Traffic(world, 50 * MS, 300)
            traffic.on_out = lambda number: self._arrived("out", number)
            traffic.on_back = lambda number: self._arrived("back", number)
            self._check()
            if self._random.random() < 1 / 2:
                world.run(PATIENCE, lambda: self.caller.core.keeper.state is CircuitState.UP)
            for fault in outcome.faults:
                world.at(world.now + fault.after, self._begin, fault)
            world.run(max(fault.after + fault.lasts for fault in outcome.faults))
            ended, self._since = world.now, traffic.sent
            flows = world.run(RECOVERY, self._recovered)
            outcome.recovery = world.now - ended
            outcome.sent, outcome.out, outcome.back = traffic.sent, len(traffic.out), len(traffic.back)
            assert flows, f"no recovery: {self._fresh} packets came, links up: {links_up(world)}"
            traffic.stop()
            self._down()
            world.run(LEAVE)
            self._close(before)
            self._compare(without)
        except AssertionError as failure:
            outcome.trouble = str(failure) or repr(failure)
        outcome.lived = world.now - start
        return outcome

    # -- what the host does -----------------------------------------------------------------------

    def _up(self) -> None:
        routes, shares = self._wish
        self.caller.core.keeper.want(None, 3, routes, self.caller.now, Redundancy(shares))
        self.caller.wake()

    def _down(self) -> None:
        self.caller.core.keeper.drop()
        self.caller.wake()

    # -- faults -----------------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        node = self.world.nodes.get(fault.node, self.caller)
        if fault.wires:
            self.weather.begin(fault)
            self._over(fault, self.weather.end, fault)
        elif fault.kind in OF_NODES:
            self._strike(node, fault)
        elif fault.kind in OF_RELAYS:
            for handle in list(node.core.relay.routes)[:1]:
                node.core.relay.end(handle, Reason.ROUTE_DEAD)
            node.wake()
        else:
            self._wish_otherwise(fault)

    def _over(self, fault: Fault, act: Callable[..., None], *given: object) -> None:
        self.world.at(self.world.now + fault.lasts, act, *given)

    def _strike(self, node: SimNode, fault: Fault) -> None:
        match fault.kind:
            case "kill":
                node.stop()
                self._over(fault, self._restart, node)
            case "stall":
                node.stall(fault.lasts)
            case "suspend":
                node.suspend(fault.lasts)

    def _wish_otherwise(self, fault: Fault) -> None:
        core = self.caller.core
        match fault.kind:
            case "end route":
                for handle in list(core.caller.routes)[:1]:
                    core.caller.end(handle, Reason.FINISHED)
            case "rotate":
                for route in core.keeper.routes[:1]:
                    route.expires = self.caller.now
            case "down and up":
                self._down()
                self._over(fault, self._up)
            case "redundancy":
                self._wish = self._wish[0], int(fault.amount)
                self._up()
            case "routes":
                self._wish = int(fault.amount), self._wish[1]
                self._up()
        self.caller.wake()

    def _restart(self, node: SimNode) -> None:
        if not node.running:
            node.start()
            if node is self.caller:
                self._up()

    # -- what must hold ---------------------------------------------------------------------------

    def _arrived(self, way: str, number: int) -> None:
        assert number > self._came[way], f"{way}: packet {number} came after {self._came[way]}"
        self._came[way] = number
        self._fresh[way] += self._since is not None and number >= self._since

    def _check(self) -> None:
        for node in self.world.nodes.values():
            if node.running:
                check_slots(node)
                check_memory(node)
        self.world.at(self.world.now + CHECK_EVERY, self._check)

    def _recovered(self) -> bool:
        return min(self._fresh.values()) >= FLOWS and links_up(self.world)

    def _close(self, before: dict[str, dict[str, object]]) -> None:
        """The exit keeps a circuit for a while after its last route: let it act as if that were over."""
        assert self.caller.core.keeper.state is CircuitState.DOWN
        check_both_ends(self.world)
        leaver = self.world.nodes["exit"]
        leaver.core.relay.on_deadline(leaver.now + LINGER_NS)
        leaver.settle()
        after = all_holdings(self.world)
        for name, held in after.items():
            assert held == before[name], f"{name} holds {held}, and before {before[name]}"

    def _compare(self, without: Trace) -> None:
        """The wires that no fault touched look as they do when nothing happens."""
        outcome, now = self.outcome, self.world.now
        seen = by_wire(self.world.network.trace or [])
        rekeyed = PROFILES[self.world.seed][1] == REKEYED
        for wire in without.keys() - touched(self.world, outcome.faults, rekeyed):
            expected = [sent for sent in without[wire] if sent.at <= now]
            difference = next(((a, b) for a, b in zip(expected, seen[wire], strict=False) if a != b), None)
            assert difference is None, f"on {wire}: {difference}"
            assert len(expected) == len(seen[wire]), f"on {wire}: {len(seen[wire])}, not {len(expected)}"
            outcome.wires += 1
            outcome.datagrams += len(expected)
