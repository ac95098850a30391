"""`anonnet-tun status`, `peers`, `circuits`: what the daemon knows, as tables or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.table import Table

from anonnet.cli import config_option, json_option
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
    from anonnet.cli.host import current  # noqa: PLC0415

    report = current(load(config_path))
    if as_json:
        _print_json(report)
    else:
        click.echo(SAYS[report.state])
        console = Console(soft_wrap=True)
        if report.id is not None:
            console.print(f"this node   {report.id}")
        if report.exit is not None:
            console.print(f"exit        {report.exit}")
        if report.circuits:
            console.print(_circuit_table(report.circuits))
        if report.links:
            console.print(_link_table(report.links))
    ctx.exit(0 if report.state == "up" else NOT_UP)


@click.command()
@config_option
@json_option
def peers(config_path: Path, as_json: bool) -> None:
    """List the nodes that this one knows."""
    report = Client(load(config_path).node.run_dir).call(api.GetPeers(), api.Peers)
    if as_json:
        return _print_json(report)
    table = _table("node", "name", "exit", "link", "addresses")
    for peer in report.peers:
        exit_ = "yes" if peer.exit else ""
        table.add_row(peer.id, peer.name, exit_, peer.link or "-", " ".join(peer.addresses))
    return Console(soft_wrap=True).print(table)


@click.command()
@config_option
@json_option
def circuits(config_path: Path, as_json: bool) -> None:
    """List this host's circuits and their routes."""
    report = Client(load(config_path).node.run_dir).call(api.GetCircuits(), api.Circuits)
    if as_json:
        _print_json(report)
    elif report.circuits:
        Console(soft_wrap=True).print(_circuit_table(report.circuits))
    else:
        click.echo("no circuit: `anonnet-tun up` builds one")


def _print_json(report: msgspec.Struct) -> None:
    click.echo(msgspec.json.encode(report).decode())


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    return table


def _circuit_table(circuits: tuple[api.CircuitStatus, ...]) -> Table:
    table = _table("circuit", "route", "state", "cells/tick", "hops")
    for circuit in circuits:
        for route in circuit.routes:
            hops = " - ".join(hop[:8] for hop in route.hops)
            table.add_row(str(circuit.id), str(route.id), route.state, f"{route.cells_per_tick:g}", hops)
    return table


def _link_table(links: tuple[api.LinkStatus, ...]) -> Table:
    columns = ("link", "state", "over", "profile", "tick us", "cells/tick")
    table = _table(*columns, "sent", "received", "missed", "late", "skipped")
    for column in table.columns[4:]:
        column.justify = "right"
    for link in links:
        cells = (link.cells_sent, link.cells_received, link.cells_missed)
        counts = (*cells, link.late_ticks, link.skipped_ticks)
        table.add_row(
            link.peer[:8],
            link.state,
            link.transport,
            link.profile,
            f"{link.tick_us:g}",
            str(link.cells_per_tick),
            *map(str, counts),
        )
    return table
