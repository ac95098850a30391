"""Routes that only test: `ping` and debugging runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from anonnet.errors import OperatorError
from anonnet.ids import NodeId, node_id_text
from anonnet.node import api, report
from anonnet.node.control import Control
from anonnet.node.peers import parse_exclusion
from anonnet.proto.budget import TEST_SHARE
from anonnet.proto.caller import OwnRoute, Watcher
from anonnet.proto.guards import guards_wanted
from anonnet.proto.path import KnownNode, choose, paths
from anonnet.wire.control import Echo, Reason

SETUP_SECONDS: Final = 60.0
ECHO_SECONDS: Final = 10.0
PATIENCE_CELLS: Final = 64  # .. and more on slow routes: the time of so many cells
MAX_RUNS: Final = 1000
MAX_HOPS: Final = 3  # longest path that `ping` tries


async def debugging_runs(control: Control, runs: int, say: Callable[[str], None]) -> api.Circuits:
    """Make so many debugging runs at once; OperatorError when one fails, after all have ended.

    No route is taken down before all stand. A single run says each of its steps, many only how each ended.
    """
    if not 1 <= runs <= MAX_RUNS:
        raise OperatorError(f"{runs} debugging runs", f"ask for 1 to {MAX_RUNS}")

    missing = runs
    together = asyncio.Event()

    def arrive() -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            together.set()
            if runs > 1:
                say(f"{len(control.node.caller.routes)} test routes stand")

    async def hold() -> None:
        arrive()
        await together.wait()

    async def run(number: int) -> api.Circuits:
        probe = Probe(control, say if runs == 1 else lambda text: None, runs)
        try:
            found = await probe.debugging_run(hold)
        except OperatorError as error:
            arrive()
            say(f"run {number} of {runs} failed: {error}")
            raise
        if runs > 1:
            say(f"run {number} of {runs} ended well")
        return found

    tasks = []
    for number in range(1, runs + 1):
        tasks.append(asyncio.create_task(run(number)))
        await asyncio.sleep(0)  # each begins with a handshake's keys: others have their turn in between
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    failures = [end for end in ended if isinstance(end, BaseException)]
    if failures and runs == 1:
        raise failures[0]
    if failures:
        raise OperatorError(f"{len(failures)} of {runs} runs failed", str(failures[0]))
    return api.Circuits(tuple(c for end in ended if isinstance(end, api.Circuits) for c in end.circuits))


class Probe:
    """One test route, from its first step to its end; each step is said as it happens.

    `among` so many at once, it takes its part of what is left of a link.
    """

    def __init__(self, control: Control, say: Callable[[str], None], among: int = 1) -> None:
        self._control = control
        self._say = say
        self._among = among
        self._ready = asyncio.Event()
        self._reason: Reason | None = None
        self._patience = 0.0  # seconds
        self._echoes: dict[int, asyncio.Future[int]] = {}

    async def ping(self, node_id: NodeId, count: int) -> api.Pinged:
        """Send echoes to a node, over the shortest path that there is."""
        report.require_up(self._control)
        path = next((p for hops in range(1, MAX_HOPS + 1) if (p := self._path(hops, node_id))), None)
        if path is None:
            hint = "only nodes that the peers' invites link up with this one can be reached"
            raise OperatorError(f"no path of up to {MAX_HOPS} hops to that node", hint)
        route = await self._build(path)
        try:
            rtts = [await self._echo(route, index) for index in range(count)]
        finally:
            self._end(route)
        return api.Pinged(node_id_text(node_id), tuple(rtts))

    async def debugging_run(self, hold: Callable[[], Awaitable[None]] | None = None) -> api.Circuits:
        """Build a test circuit as long as a real one, echo from every hop of it, `hold`, and take it down."""
        report.require_up(self._control)
        hops = self._control.config.caller.hops
        path = self._path(hops, None)
        if path is None:
            hint = "`anonnet-tun peers` shows who is known and linked"
            raise OperatorError(f"no path of {hops} hops", hint)
        route = await self._build(path)
        try:
            for hop in range(len(path)):
                if await self._echo(route, hop, hop) is None:
                    raise OperatorError(f"no echo from hop {hop + 1} of the test route", "try again")
            if hold is not None:
                await hold()
            answer = api.RouteStatus(route.handle, tuple(node_id_text(n.node_id) for n in path),
                                     route.state.value, 0.0)  # fmt: skip
        finally:
            self._end(route)
            self._say("route taken down")
        return api.Circuits((api.CircuitStatus(0, answer.hops[-1], (answer,)),))

    def _path(self, hops: int, last: NodeId | None) -> list[KnownNode] | None:
        """Draw a path that begins with a guard, as all routes do, or is the neighbour asked for itself."""
        node, caller = self._control.node, self._control.config.caller
        up = {neighbour.node_id for neighbour in node.neighbours if neighbour.up}
        if hops == 1 and last is not None:
            first = up & {last}
        else:
            excluded = parse_exclusion(caller.exclude)
            out = {one for one, known in node.nodes.items() if excluded.covers(known)}
            wanted = guards_wanted(caller.routes)
            guards = node.ends.guards.choose(node.neighbours, out, wanted, self._control.now())
            first = {guard.node_id for guard in guards}
        known = node.nodes
        ends = [n.node_id for n in known.values() if n.exit] if last is None else [last]
        return choose(paths(known, first, hops, ends), node.random)

    async def _build(self, path: Sequence[KnownNode]) -> OwnRoute:
        control = self._control
        first = control.node.neighbours.find(path[0].node_id)
        assert first is not None
        parts = max(2 * TEST_SHARE, self._among)
        rate = (max(1, first.budget.capacity_out // parts), max(1, first.budget.capacity_in // parts))
        self._patience = PATIENCE_CELLS * 1000 / min(rate)
        watcher = Watcher(self._say, lambda _: self._ready.set(), self._on_dead, self._on_echo)
        route = control.node.caller.build(path, rate, None, watcher, control.now())
        control.settle_soon()
        if isinstance(route, Reason):
            raise OperatorError(f"no test route: {route.text}", "try again when the circuit is down")
        try:
            async with asyncio.timeout(SETUP_SECONDS + len(path) * self._patience):
                await self._ready.wait()
        except TimeoutError:
            self._end(route)
            raise OperatorError("no test route: no answer in time", "see `anonnet-tun status`") from None
        if self._reason is not None:
            raise OperatorError(f"no test route: {self._reason.text}", "see `anonnet-tun status`")
        return route

    def _on_dead(self, _handle: int, reason: Reason) -> None:
        self._reason = reason
        self._ready.set()

    def _on_echo(self, _handle: int, _hop: int, token: int) -> None:
        waiting = self._echoes.pop(token, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(self._control.now())

    async def _echo(self, route: OwnRoute, index: int, hop: int | None = None) -> float | None:
        """One echo from a hop (None: the last); its round-trip time in ms, None if it is lost."""
        control = self._control
        hop = len(route.path) - 1 if hop is None else hop
        token = int.from_bytes(control.node.random(8), "big")
        answered = self._echoes[token] = asyncio.get_running_loop().create_future()
        sent = control.now()
        if self._reason is not None:
            raise OperatorError(f"the test route died: {self._reason.text}", "try again")
        control.node.caller.signal(route, hop, Echo(token), sent)
        control.settle_soon()
        try:
            async with asyncio.timeout(ECHO_SECONDS + self._patience):
                received: int = await answered
        except TimeoutError:
            self._say(f"echo {index + 1}: nothing came back")
            return None
        rtt = (received - sent) / 1e6
        name = route.path[hop].name or node_id_text(route.path[hop].node_id)[:8]
        self._say(f"echo {index + 1} from {name}: {rtt:.1f} ms")
        return rtt

    def _end(self, route: OwnRoute) -> None:
        self._control.node.caller.end(route.handle, Reason.FINISHED)
        self._control.settle_soon()
