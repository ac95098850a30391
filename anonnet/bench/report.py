"""All benchmarks in a row, as a table and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from typing import Final

import msgspec
from rich.table import Table

from anonnet.bench import memory, parts, relay, sockets
from anonnet.bench.memory import ProcessMemory
from anonnet.bench.parts import Parts
from anonnet.bench.relay import Forwarded
from anonnet.bench.sockets import SocketCost
from anonnet.proto.engine import choose
from anonnet.proto.profile import parse_profile
from anonnet.spec import FORMATS

TARGET_US: Final = 12.0
LIMIT_US: Final = 15.0
LIMIT_MIB: Final = 150.0
RATE: Final = "t3"
FAST: Final = "250m"  # 50,000 cells a second: what one costs then says how many a core can switch
TRANSPORTS: Final = ("raw", "udp", "udp, one by one")


class Relay(msgspec.Struct):
    """A relay at work, by what it was given; several runs, of which `cpu_us` is the median."""

    cpu_us: float
    runs: list[Forwarded]


class Report(msgspec.Struct):
    """Everything measured. Costs in microseconds for each cell, memory in MiB."""

    schema: int
    host: dict[str, str | int]
    parts: dict[str, Parts]  # by format
    sockets: dict[str, dict[str, SocketCost]]  # by format, by transport
    relay: dict[str, Relay]  # by "rate format transport load"
    memory: dict[str, ProcessMemory]  # by process; of an idle relay

    @property
    def relay_total_us(self) -> float | None:
        """What the target is about: a cell of the default format and transport at one hop, all in all."""
        return self.relay[f"{RATE} wide raw idle"].cpu_us if self.relay else None

    @property
    def resident_mib(self) -> float | None:
        """Of both of a node's working processes."""
        working = [one.rss for name, one in self.memory.items() if name != "keeper"]
        return sum(working) if working else None


def measure(quick: bool, say: Callable[[str], None]) -> Report:
    """Measure everything that this user may; `quick` for a look in seconds, not for the record."""
    root = os.geteuid() == 0
    ticks, seconds, runs = (100, 1.0, 1) if quick else (1000, 5.0, 3)
    host: dict[str, str | int] = {
        "python": platform.python_version(), "kernel": platform.release(), "machine": platform.machine(),
        "cpus": os.cpu_count() or 0, "engine": choose().name,
    }  # fmt: skip
    report = Report(1, host, {}, {}, {}, {})
    for name, fmt in FORMATS.items():
        say(f"parts, {name} cells")
        report.parts[name] = parts.measure(fmt, ticks)
        report.sockets[name] = {
            transport: sockets.measure(fmt, transport[:3], ticks, transport in ("raw", "udp"))
            for transport in TRANSPORTS
            if root or transport != "raw"
        }
    if root:
        for name, rate, transport, busy in (
            ("wide raw idle", RATE, "raw", 0), ("wide raw busy", RATE, "raw", os.cpu_count() or 1),
            ("wide udp idle", RATE, "udp", 0), ("narrow raw idle", "9m:narrow", "raw", 0),
            ("wide raw idle", "100m", "raw", 0), ("wide raw idle", FAST, "raw", 0),
            ("wide udp idle", FAST, "udp", 0),
        ):  # fmt: skip
            say(f"relay, {rate} {name}")
            done = [relay.forward(parse_profile(rate), transport, seconds, busy) for _ in range(runs)]
            report.relay[f"{rate} {name}"] = Relay(statistics.median(run.cpu_us for run in done), done)
        if not quick:
            say("memory of an idle node")
            report.memory = memory.measure(RATE)
    return report


def tables(report: Report) -> list[Table]:
    """Draw it."""
    costs = Table("microseconds a cell", *report.parts, title=f"parts, hot, {report.host['engine']}")
    for part in ("seal", "open", "encipher", "decipher", "switch"):
        costs.add_row(part, *(f"{getattr(one, part):.2f}" for one in report.parts.values()))
    for transport in TRANSPORTS:
        found = [by_transport.get(transport) for by_transport in report.sockets.values()]
        if all(found):
            costs.add_row(f"send, {transport}", *(f"{one.send:.2f}" for one in found if one))
            costs.add_row(f"receive, {transport}", *(f"{one.receive:.2f}" for one in found if one))
    costs.add_row("memory blocks kept", *(f"{one.kept_blocks:.3f}" for one in report.parts.values()))
    costs.add_row("memory in passing, KiB a tick", *(f"{one.peak_kib:.1f}" for one in report.parts.values()))
    relays = Table(
        "a relay at work", "CPU us a cell", "late by, us", "std, us", "worst, us", "skipped", title="relay"
    )
    for name, one in report.relay.items():
        last = one.runs[-1]
        relays.add_row(name, f"{one.cpu_us:.2f}", f"{last.late_median_us:.0f}", f"{last.late_std_us:.1f}",
                       f"{last.late_worst_us:.0f}", str(sum(run.skipped for run in one.runs)))  # fmt: skip
    mib = Table("process", "RSS MiB", "PSS MiB", title="an idle node")
    for name, process in report.memory.items():
        mib.add_row(name, f"{process.rss:.1f}", f"{process.pss:.1f}")
    return [table for table in (costs, relays, mib) if table.row_count]


def verdict(report: Report) -> list[str]:
    """Say how it stands to the limits."""
    if (total := report.relay_total_us) is None:
        return ["relay and memory were not measured: they need root and network namespaces"]
    grade = (
        "on target" if total <= TARGET_US else "within the limit" if total <= LIMIT_US else "OVER the limit"
    )
    lines = [f"relay total: {total:.1f} us a cell, {grade} (target {TARGET_US:g}, limit {LIMIT_US:g})"]
    if (mib := report.resident_mib) is not None:
        grade = "within" if mib <= LIMIT_MIB else "OVER"
        lines.append(f"resident memory of control and data plane: {mib:.0f} MiB, {grade} {LIMIT_MIB:g}")
    return lines
