"""`anonnet-tun status`, `peers`, `circuits`: what the daemon knows, as tables or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from anonnet.cli import config_option, json_option
from anonnet.cli.host import current
from anonnet.node import api
from anonnet.node.client import Client
from anonnet.node.config import load

NOT_UP: Final = 3  # as `systemctl status` says of a unit that is not active

SAYS: Final[dict[api.State, str]] = {
    "down": "down: traffic of this host goes to the Internet in the clear",
    "connecting": "connecting: a circuit is being built; traffic waits and nothing leaves in the clear",
    "up": "up: traffic of this host goes through the network",
    "blocked": "blocked: nothing passes, nothing leaks; `up` reconnects, `down` opens the host again",
}


@click.command()
@config_option
@json_option
@click.pass_context
def status(ctx: click.Context, config_path: Path, as_json: bool) -> None:
    """Say whether traffic is protected, and how the links do. Exit code 0 when up, 3 when not."""
    report = current(load(config_path))
    if as_json:
        _print_json(report)
    else:
        says = SAYS[report.state]
        if report.lockdown:  # `down` would leave it blocked
            says = says.replace("`down` opens", "`lockdown off` opens")
        click.echo(says)
        for warning in report.warnings:
            click.echo(f"warning: {warning}")
        for label, value in (("this node", report.id), ("exit", report.exit), ("data plane", report.engine)):
            if value is not None:
                click.echo(f"{label:<12}{value}")
        for line in _of_this_host(report):
            click.echo(line)
        kept = [("guard", report.guards), ("exit", report.exits)]
        tables = [table(f"{what} days state", [(k.id[:8], k.days_left, k.state) for k in found])
                  for what, found in kept]  # fmt: skip
        for shown in (_circuit_table(report.circuits), *tables, _link_table(report.links)):
            if shown:
                click.echo(f"\n{shown}")
        for line in _troubles(report):
            click.echo(line)
    ctx.exit(0 if report.state == "up" else NOT_UP)


@click.command()
@config_option
@json_option
def peers(config_path: Path, as_json: bool) -> None:
    """List the nodes that this one knows."""
    report = Client(load(config_path).node.run_dir).call(api.GetPeers(), api.Peers)
    if as_json:
        _print_json(report)
        return
    rows = [
        (peer.id, peer.name, "yes" if peer.exit else "no", peer.link or "none", " ".join(peer.addresses))
        for peer in report.peers
    ]
    click.echo(table("node name exit link addresses", rows) or "no peers: the configuration names none")


@click.command()
@config_option
@json_option
def circuits(config_path: Path, as_json: bool) -> None:
    """List this host's circuits and their routes."""
    report = Client(load(config_path).node.run_dir).call(api.GetCircuits(), api.Circuits)
    if as_json:
        _print_json(report)
    else:
        click.echo(_circuit_table(report.circuits) or "no circuit: `anonnet-tun up` builds one")


def _of_this_host(report: api.Status) -> Iterator[str]:
    """Yield what to know about this host beside the state."""
    if report.outside:
        yield f"{'outside':<12}{', '.join(report.outside)}"
    if report.socks:
        yield f"{'socks':<12}{report.socks}"
    if report.lockdown:
        yield f"{'lockdown':<12}on: blocked whenever not up"
    if report.state in ("up", "blocked") and not report.watched:
        yield f"{'no warden':<12}nobody puts right what other programs change: `up` starts one"


def _troubles(report: api.Status) -> Iterator[str]:
    """Yield what is wrong with circuits and links."""
    for circuit in report.circuits:
        if circuit.trouble:
            yield f"circuit {circuit.id}: {circuit.trouble}"
        if circuit.next_build_s > 1:
            wait = f"the next one is built in {circuit.next_build_s:.0f} s"
            yield f"circuit {circuit.id}: many of its routes have died; {wait}"
    for link in report.links:
        if link.trouble:
            yield f"link with {link.peer[:8]}: {link.trouble}"


def show_hops(route: api.RouteStatus) -> str:
    """Return a route for people: the beginnings of its hops' ids."""
    return " - ".join(hop[:8] for hop in route.hops)


def _print_json(report: msgspec.Struct) -> None:
    click.echo(msgspec.json.encode(report).decode())


def _circuit_table(circuits: Sequence[api.CircuitStatus]) -> str:
    """Return every route; of several circuits, first each with its exit and the number of its keys."""
    routes = [
        (circuit.id, route.id, route.state, f"{route.cells_per_tick:g}", show_hops(route))
        for circuit in circuits
        for route in circuit.routes
    ]
    tables = [table("circuit route state cells/tick hops", routes)]
    if len(circuits) > 1:
        each = [(circuit.id, circuit.state, circuit.exit[:8] or "none", circuit.keys) for circuit in circuits]
        tables.insert(0, table("circuit state exit keys", each))
    return "\n\n".join(filter(None, tables))


def _link_table(links: Iterable[api.LinkStatus]) -> str:
    rows = [
        (
            link.peer[:8],
            link.state,
            link.transport,
            link.profile,
            f"{link.tick_us:g}",
            link.cells_per_tick,
            link.cells_sent,
            link.cells_received,
            link.cells_missed,
            link.late_ticks,
            link.skipped_ticks,
        )
        for link in links
    ]
    return table("link state over profile tick/us cells/tick sent received missed late skipped", rows)


def table(head: str, rows: Iterable[tuple[object, ...]]) -> str:
    """Return aligned columns, numbers to the right, never cut: scripts read them. Empty without rows."""
    cells = [head.split(), *([str(cell) for cell in row] for row in rows)]
    if len(cells) == 1:
        return ""
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    numeric = [all(cell.replace(".", "").isdigit() for cell in column[1:]) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    )
