"""`anonnet-tun up`: firewall, TUN, circuit, routes, DNS and a proof that packets pass; or nothing at all."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Literal

import click
import msgspec
from rich.console import Console

from anonnet.cli import Seconds, config_option
from anonnet.cli.host import in_place, up_settings
from anonnet.cli.outside import lan_ranges, running
from anonnet.cli.probe import wait_for_echo
from anonnet.cli.show import show_hops
from anonnet.errors import OperatorError
from anonnet.node import api
from anonnet.node.client import Client
from anonnet.node.config import load
from anonnet.node.peers import Peer, find_exit, find_node, read_peers, require_link
from anonnet.node.sections import Config
from anonnet.proto.isolation import MAX_CIRCUITS, Isolation, check_isolation
from anonnet.proto.redundancy import parse_redundancy
from anonnet.tun import warden
from anonnet.tun.commands import require_net_admin
from anonnet.tun.host import HostSession, Phase, change

WIDTH: Final = 12  # of the column that names the step
DISTINCT: Final[dict[str, Literal["auto"] | bool]] = {"auto": "auto", "true": True, "false": False}
GRACE: Final = 5.0  # seconds for the daemon's answer beyond the time it was given


class Steps:
    """What `up` tells while it works: one line for each step, and a moving one while it waits."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)

    def did(self, step: str, what: str) -> None:
        """Say that a step is done."""
        self.console.print(f"{step:<{WIDTH}}{what}", markup=False)

    @contextlib.contextmanager
    def waiting(self, step: str, what: str) -> Iterator[Callable[[str], None]]:
        """Show a moving line on a terminal, a plain one elsewhere; yields what changes its text."""
        if not self.console.is_terminal:
            self.did(step, what)
            yield lambda text: self.did("", text)
            return
        with self.console.status(f"{step:<{WIDTH}}{what}") as status:
            yield lambda text: status.update(f"{step:<{WIDTH}}{text}")


@click.command()
@config_option
@click.option("--wait", default=60.0, show_default=True, type=Seconds(1), help="Seconds to try for.")
@click.option("--exit", "exit_", help="Id or name of the exit, or auto.")
@click.option("--exclude", multiple=True, help="Id, name or network of nodes to keep out; repeatable.")
@click.option("--hops", type=click.IntRange(1, 16), help="Relays and exit of a route.")
@click.option("--routes", type=click.IntRange(1, 8), help="Routes of the circuit, through different relays.")
@click.option("--redundancy", help="stripe, mirror, or 2-of-n over the routes.")
@click.option("--circuits", type=click.IntRange(1, MAX_CIRCUITS), help="Circuits at once, to isolate.")
@click.option("--isolate", type=click.Choice([by.value for by in Isolation]), help="What shares no circuit.")
@click.option("--distinct-exits", type=click.Choice(list(DISTINCT)), help="An exit for each circuit.")
@click.option("--lan", type=click.Choice(["on", "off"]), help="Reach the local network past the tunnel.")
@click.option("-v", "--verbose", is_flag=True, help="Show every change to this host.")
def up(
    config_path: Path, wait: float, exit_: str | None, exclude: tuple[str, ...], hops: int | None,
    routes: int | None, redundancy: str | None, circuits: int | None, isolate: str | None,
    distinct_exits: str | None, lan: str | None, verbose: bool,
) -> None:  # fmt: skip
    """Carry all of this host's traffic through the network.

    Succeeds only when packets really pass through the circuit. If a step fails, everything is undone.
    """
    config = load(config_path)
    peers = require_caller(config, str(config_path))
    deadline = time.monotonic() + wait
    exit_id = find_exit(peers, exit_)
    distinct = DISTINCT[distinct_exits] if distinct_exits else None
    excluded = tuple(_excluded(peers, text) for text in exclude)
    request = api.Up(exit_id, hops, routes, redundancy, wait, circuits, isolate, distinct, excluded)
    _require_possible(config, peers, request)
    users = Isolation(isolate or config.caller.isolate) is Isolation.USER
    settings = up_settings(config, peers, users)
    if lan is not None:
        settings = msgspec.structs.replace(settings, lan=lan_ranges(config, lan))
    client = Client(config.node.run_dir)
    steps = Steps()
    echo = (lambda line: steps.console.print(line, markup=False)) if verbose else _silent

    before = client.call(api.GetStatus(), api.Status)
    if before.state == "up" and all(in_place(config)):
        _adjust(config, users, settings.lan if lan else None, echo)
        if request != api.Up(wait=wait):
            before = client.call(request, api.Status, timeout=wait + GRACE)
        _check(config, steps, deadline)
        steps.did("already up", "; ".join(map(_through, before.circuits)) or "no route")
        return

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # undo then, too
    with HostSession(settings, echo, watched=True) as host:
        try:
            host.apply(Phase.FIREWALL)
            steps.did("firewall", f"only {settings.tun} and {len(settings.links)} link addresses pass")
            host.apply(Phase.TUN)
            steps.did("tunnel", settings.tun)
            with steps.waiting("circuit", "asking") as say:
                after = client.call(
                    request,
                    api.Status,
                    on_progress=lambda progress: say(progress.text),
                    fds=(host.tun.fd,),
                    timeout=wait + GRACE,
                )
            for circuit in after.circuits:
                number = f" {circuit.id}" if len(after.circuits) > 1 else ""
                steps.did(f"circuit{number}", _through(circuit))
            host.apply(Phase.ROUTES)
            steps.did("routes", f"all but link datagrams go to {settings.tun}")
            host.apply(Phase.DNS)
            steps.did("dns", "asked through the circuit")
            _check(config, steps, deadline)
            host.keep()
        except BaseException:
            try:
                steps.did("failed", "undoing all of it")  # if anybody still reads this
            finally:
                with contextlib.suppress(OperatorError):
                    client.call(api.Down(), api.Status)  # before the device goes
            raise
    steps.did("up", "all of this host's traffic goes through the network")


def require_caller(config: Config, source: str) -> list[Peer]:
    """Return the peers; OperatorError unless this host can be brought up with them. `source`: of the file."""
    peers = read_peers(config, None, source)
    require_link(peers, source)
    if config.exit.enabled:
        # The firewall of `up` stops all forwarding, and its rule would send what we forward round in a loop.
        hint = "set exit.enabled = false and restart the daemon, or call from another host"
        raise OperatorError("this node is an exit, which forwards for others", hint)
    require_net_admin()
    return peers


def _require_possible(config: Config, peers: list[Peer], request: api.Up) -> None:
    """Raise for what the daemon would refuse: before this host is touched, and its connections with it."""
    wanted = config.caller
    parse_redundancy(request.redundancy or wanted.redundancy)
    check_isolation(Isolation(request.isolate or wanted.isolate), request.circuits or wanted.circuits)
    if request.exit is None:
        find_exit(peers, wanted.exit)


def _adjust(config: Config, users: bool, lan: tuple[str, ...] | None, echo: Callable[[str], None]) -> None:
    """Bring what stands on this host in line with what this `up` was told; None: leave the LAN as it is."""
    now = running(config)
    wanted = msgspec.structs.replace(now, users=now.users or users, lan=now.lan if lan is None else lan)
    if wanted != now:
        change(wanted, echo)
    if not warden.runs(config.node.run_dir):
        warden.restart(config.node.run_dir)


def _check(config: Config, steps: Steps, deadline: float) -> None:
    with steps.waiting("check", "waiting for an echo through the circuit"):
        seconds = wait_for_echo(config.caller.tun, deadline - time.monotonic())
    steps.did("check", f"echo through the circuit in {seconds * 1000:.0f} ms")


def _through(circuit: api.CircuitStatus) -> str:
    """Return the routes of a circuit, for people."""
    return ", ".join(show_hops(route) for route in circuit.routes) or "no route"


def _excluded(peers: list[Peer], text: str) -> str:
    """Return a network as it is, else the id of the node that is meant."""
    try:
        ip_network(text)
    except ValueError as no_network:
        try:
            return find_node(peers, text)
        except OperatorError as error:
            raise OperatorError(f"{error.what}, and {no_network}", error.hint) from None
    return text


def _silent(_line: str) -> None:
    """Show no change."""
