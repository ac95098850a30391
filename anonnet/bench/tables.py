"""The record of a benchmark for a terminal."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from itertools import chain

from rich.table import Table

from anonnet.bench.chain import Flow, Measured
from anonnet.bench.emission import Emission
from anonnet.bench.footprint import Footprint
from anonnet.bench.mesh import Mesh
from anonnet.bench.proxy import Proxied
from anonnet.bench.report import TRANSPORTS, Micro, Node, Relay, Report
from anonnet.bench.scaling import RELAYS, Scaling


def tables(report: Report) -> Iterator[Table]:
    """Draw what was measured."""
    if report.micro:
        yield _micro(report.micro, str(report.host["engine"]))
        yield _packets(report.micro)
    if report.node:
        yield from _node(report.node)
    if report.lab:
        yield from _lab(report.lab, str(report.host.get("tcp", "")))
    if report.proxy:
        yield _proxy(report.proxy)
    if report.scaling:
        yield from _scaling(report.scaling)
    if report.footprint:
        yield _footprint(report.footprint)
    if report.emission:
        yield _emission(report.emission)


def _micro(micro: Micro, engine: str) -> Table:
    table = Table("microseconds a cell", *micro.parts, title=f"micro, hot, {engine}")
    for part in ("seal", "open", "encipher", "decipher", "switch"):
        table.add_row(part, *(f"{getattr(one, part):.2f}" for one in micro.parts.values()))
    for transport in TRANSPORTS:
        found = [by_transport.get(transport) for by_transport in micro.sockets.values()]
        table.add_row(f"kernel: send, {transport}", *(f"{one.send:.2f}" if one else "-" for one in found))
        table.add_row(
            f"kernel: receive, {transport}", *(f"{one.receive:.2f}" if one else "-" for one in found)
        )
    table.add_row("memory blocks kept", *(f"{one.kept_blocks:.3f}" for one in micro.parts.values()))
    table.add_row("memory in passing, KiB a tick", *(f"{one.peak_kib:.1f}" for one in micro.parts.values()))
    return table


def _packets(micro: Micro) -> Table:
    head = "packets at the ends|engine|join, us a packet|send|fill, us a cell|receive|cells a packet"
    table = Table(*head.split("|"), title="micro: caller's and exit's packets")
    for name, costs in micro.packets.items():
        for one in costs:
            join = "-" if one.join is None else f"{one.join:.2f}"
            others = (f"{cost:.2f}" for cost in (one.send, one.fill, one.receive, one.cells))
            table.add_row(f"{one.kind}, {name}", one.engine, join, *others)
    return table


def _node(node: Node) -> Iterator[Table]:
    head = "a relay at work|links|routes|CPU us a cell|cells a core|late by, us|std|worst|skipped"
    table = Table(*head.split("|"), title="node")
    for one in node.relays:
        last = one.runs[-1]
        name = f"{one.rate} {one.transport}" + (", cores busy" if one.busy else "")
        late = f"{last.late_median_us:.0f}", f"{last.late_std_us:.1f}", f"{last.late_worst_us:.0f}"
        cost = f"{one.cpu_us:.2f}", f"{one.cells_per_core:,.0f}"
        skipped = sum(run.skipped for run in one.runs)
        table.add_row(name, str(one.links), str(one.routes), *cost, *late, str(skipped))
    for name, bare in node.bare.items():
        table.add_row(f"{name}, without AnonNet", "1", "", f"{bare.cpu_us:.2f}", f"{1e6 / bare.cpu_us:,.0f}")
    yield table
    if any(one.sampled for one in node.relays):
        yield _shares(node.relays)
    if node.memory:
        mib = Table("process", "RSS MiB", "PSS MiB", title="an idle node")
        for name, process in node.memory.items():
            mib.add_row(name, f"{process.rss:.1f}", f"{process.pss:.1f}")
        yield mib


def _shares(relays: list[Relay]) -> Table:
    table = Table("by samples, us a cell", "kernel", "ciphers", "own", "samples", title="whose time it is")
    for one in relays:
        if one.sampled and (shares := one.sampled.shares):
            parts = (share * one.sampled.cpu_us for share in (shares.kernel, shares.ciphers, shares.own))
            table.add_row(f"{one.rate} {one.transport}", *(f"{us:.2f}" for us in parts), str(shares.samples))
    return table


def _lab(measured: list[Measured], congestion: str) -> Iterator[Table]:
    table = Table(title=f"lab: caller - r1 - r2 - x1; TCP: {congestion}")
    table.add_column(no_wrap=True)
    for one in measured:
        table.add_column(one.name)
    rows = {
        "tick, ms; cells": [f"{one.tick_ms:.2f}; {one.cells_per_tick}" for one in measured],
        "load before": [f"{one.load:.1f}" for one in measured],
        "kernels only: Mbit/s": [f"{one.plain.mbit:.0f}" if one.plain else "" for one in measured],
        "up, s; first byte": [f"{one.up_s:.2f}; {one.first_byte_s:.2f}" for one in measured],
        "circuit, ms": [f"{one.circuit_ms:.0f}" for one in measured],
        "test routes, ms": [
            f"{statistics.median(one.setup_ms):.0f}" if one.setup_ms else "" for one in measured
        ],
        "echo idle, ms: mean, p99": [f"{one.idle.mean:.1f}, {one.idle.p99:.1f}" for one in measured],
        "key, ms": [f"{one.key_ms:.1f}" for one in measured],
        "small page; by name, ms": [_pages(one) for one in measured],
    }
    for kind in dict.fromkeys(chain.from_iterable(one.flows for one in measured)):
        columns = [_flow(one.flows[kind]) if kind in one.flows else {} for one in measured]
        for name in next(filter(None, columns)):
            rows[f"{kind}: {name}"] = [column.get(name, "") for column in columns]
    for name, cells in rows.items():
        table.add_row(name, *cells)
    yield table
    yield _memory(measured[-1])


def _pages(one: Measured) -> str:
    return f"{one.get_ms:.0f}; {one.get_by_name_ms:.0f}" if one.get_ms and one.get_by_name_ms else ""


def _flow(flow: Flow) -> dict[str, str]:
    return {
        "Mbit/s": ", ".join(f"{value:.4g}" for value in flow.mbit),
        "share of the wire": f"{flow.share:.0%}",
        "echo beside, ms": f"{flow.echoes.mean:.1f}",
        "key beside, ms": f"{flow.key_ms:.1f}",
        "CPU s/GB padded; carried": f"{flow.cpu_s_per_gb_padded:.0f}; {flow.cpu_s_per_gb_carried:.0f}",
        "core": " ".join(f"{value:.0%}" for value in flow.core.values()),
        "ticks skipped": " ".join(str(value) for value in flow.skipped.values()),
        "stalls: ms, ticks": f"{sum(flow.stalls_ms):.0f}, {flow.stalls_excuse}",
    }


def _memory(one: Measured) -> Table:
    table = Table("RSS (PSS), MiB", "keeper", "control", "data plane", title=f"memory, {one.name}")
    for node, processes in one.memory.items():
        table.add_row(
            node,
            *(
                f"{processes[p].rss:.0f} ({processes[p].pss:.0f})"
                for p in ("keeper", "control", "data plane")
            ),
        )
    return table


def _proxy(one: Proxied) -> Table:
    title = f"SOCKS proxy in a host's tunnel: downloads at {one.rate} {one.transport}"
    table = Table("", "Mbit/s", "CPU s/GB: proxy", "caller's data plane", title=title)
    mbit, caller = (one.mbit, one.mbit_plain), (one.cpu_s_per_gb_caller, one.cpu_s_per_gb_caller_plain)
    for name, number in (("through the proxy", 0), ("without it", 1)):
        own = "" if number else f"{one.cpu_s_per_gb:.1f}"
        table.add_row(name, f"{mbit[number]:.4g}", own, f"{caller[number]:.1f}")
    return table


def _scaling(scaling: Scaling) -> Iterator[Table]:
    table = Table("links on each side", "routes", "CPU us a cell", title="scaling: a plane moved by hand")
    for one in scaling.costs:
        table.add_row(str(one.links), str(one.routes), f"{one.us:.2f}")
    yield table
    for load in RELAYS:
        if rows := [one for one in scaling.relays if one.load == load]:
            head = "links on each side|of|routes||CPU us a cell|cells lost|ticks skipped"
            whole = Table(*head.split("|"), title=f"scaling: whole relays, {load}")
            for one in rows:
                lost = f"{one.missed:.2%}", str(one.skipped)
                name = str(one.links), one.rate, str(one.routes), one.transport
                whole.add_row(*name, f"{one.us:.2f}", *lost)
            yield whole
    if scaling.nodes:
        head = "nodes in a row|circuit, ms|echo, ms|Mbit/s down|share|CPU us a cell of each relay|us in all"
        nodes = Table(*head.split("|"), title=f"scaling: {scaling.nodes[0].name}")
        for row in scaling.nodes:
            flow = row.flows["down"]
            costs = [row.cpu_us(flow, name) for name in flow.core]
            nodes.add_row(
                str(row.hops + 1), f"{row.circuit_ms:.0f}", f"{row.idle.mean:.0f}",
                f"{flow.mbit[0]:.2f}", f"{flow.share:.0%}", f"{statistics.mean(costs[1:-1]):.1f}",
                f"{sum(costs):.0f}",
            )  # fmt: skip
        yield nodes
    if scaling.meshes:
        yield _meshes(scaling.meshes)


def _meshes(meshes: list[Mesh]) -> Table:
    head = (
        "nodes, links|callers|circuits, ms|echo, ms|Mbit/s of each|in all|CPU us a cell of the relays|skipped"
    )
    table = Table(*head.split("|"), title=f"scaling: meshes of {meshes[0].rate}, all callers at once")
    for one in meshes:
        table.add_row(
            f"{one.nodes}, {one.links}", str(one.callers), _spread(one.circuit_ms, ".0f"),
            f"{statistics.mean(one.echo_ms):.0f}", _spread(one.mbit, ".1f"), f"{sum(one.mbit):.1f}",
            _spread(one.relays, ".1f"), str(sum(one.skipped.values())),
        )  # fmt: skip
    return table


def _spread(values: Sequence[float], form: str) -> str:
    least, most = f"{min(values):{form}}", f"{max(values):{form}}"
    return least if least == most else f"{least} to {most}"


def _footprint(footprint: Footprint) -> Table:
    table = Table("", "KiB of resident memory", title="a relay's data plane")
    table.add_row("a route through it", f"{footprint.route / 1024:.1f}")
    table.add_row("a link", f"{footprint.link / 1024:.1f}")
    return table


def _emission(emission: Emission) -> Table:
    head = "run|p, idle - loaded|p, idle - idle|std us: idle|loaded|median us: idle|loaded"
    table = Table(*head.split("|"), title=f"emission at {emission.rate}")
    for number, run in enumerate(emission.runs, 1):
        table.add_row(
            str(number), f"{run.p_loaded:.2g}", f"{run.p_control:.2g}", f"{run.idle_std_us:.1f}",
            f"{run.loaded_std_us:.1f}", f"{run.idle_median_us:.2f}", f"{run.loaded_median_us:.2f}",
        )  # fmt: skip
    return table
