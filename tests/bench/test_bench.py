"""The benchmark measures what it says: quick runs, judged by what must hold on any machine."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from anonnet.bench import memory, parts, relay, report, sockets
from anonnet.bench.parts import CELLS, Chain, Parts
from anonnet.bench.report import Relay, Report
from anonnet.cli import main
from anonnet.proto.profile import parse_profile
from anonnet.spec import FORMATS, NARROW, WIDE, Format


@pytest.mark.parametrize("fmt", FORMATS.values(), ids=FORMATS)
def test_the_relay_forwards_every_cell_that_is_timed(fmt: Format) -> None:
    chain = Chain(fmt)
    for _ in range(50):
        now = chain.feed()
        chain.forward(now)
        chain.drain(now)
    stats = chain.exit._stats(0).routes[0]
    assert stats.received > 40 * CELLS
    assert chain.lost() <= 2 * CELLS


def test_the_control_a_relay_that_forwards_nothing_is_found_out() -> None:
    chain = Chain(NARROW)
    chain.feed()
    for _ in range(10):
        chain.forward(0)  # the same tick again: replays
        chain.drain(0)
    assert chain.lost() > 2 * CELLS


def test_parts_are_positive_and_a_cell_leaves_next_to_nothing_behind() -> None:
    measured = parts.measure(NARROW, 50)
    for field in fields(Parts):
        if field.name not in ("switch", "kept_blocks"):  # differences: noise may make them negative
            assert getattr(measured, field.name) > 0, field.name
    assert measured.kept_blocks < 0.2
    assert measured.peak_kib < 64


def test_sockets_without_root() -> None:
    cost = sockets.measure(WIDE, "udp", 20)
    assert cost.send > 0
    assert cost.receive > 0
    assert cost.both == cost.send + cost.receive


def test_the_verdict_names_the_limit_that_is_broken() -> None:
    run = relay.Forwarded(1, 0, 1.0, 0.0, 0.0, 0.0, 0.0, 0)
    base = Report(1, {}, {}, {}, {}, {})
    assert "not measured" in report.verdict(base)[0]
    for cost, words in ((11.0, "on target"), (14.0, "within the limit"), (16.0, "OVER")):
        base.relay = {"t3 wide raw idle": Relay(cost, [run])}
        assert words in report.verdict(base)[0]
    base.memory = {
        "keeper": memory.ProcessMemory(500.0, 1.0),
        "control": memory.ProcessMemory(80.0, 1.0),
        "data plane": memory.ProcessMemory(90.0, 1.0),
    }
    assert "170 MiB, OVER 150" in report.verdict(base)[1]


@pytest.mark.root
def test_a_real_relay_forwards_at_the_rate_of_its_links() -> None:
    profile = parse_profile("10m")
    done = relay.forward(profile, "raw", 1.0)
    assert not left_behind()
    schedule = profile.schedule("raw", 4)
    due = 2 * schedule.cells_out * 1e9 / schedule.tick_ns
    assert 0.9 * due < done.cells < 1.7 * due, "statistics come twice a second"
    assert done.cpu_us > 0
    assert 0 < done.cpu_share < 1


@pytest.mark.root
def test_the_command_writes_what_it_prints(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    began = time.monotonic()
    result = CliRunner().invoke(main, ["bench", "--quick", "--json", str(file)])
    assert result.exit_code == 0, result.output
    assert not left_behind()
    assert time.monotonic() - began < 120
    written = json.loads(file.read_text())
    assert written["schema"] == 1
    assert set(written["parts"]) == set(FORMATS)
    total = written["relay"]["t3 wide raw idle"]["cpu_us"]
    assert f"relay total: {total:.1f} us" in result.output


def left_behind() -> list[Path]:
    """Namespaces and directories of this process's benchmarks."""
    mine = f"anbench{os.getpid()}-*"
    return [*Path("/run/netns").glob(mine), *Path("/run").glob(f"anonnet-bench-{os.getpid()}")]
