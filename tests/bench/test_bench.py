"""The benchmark measures what it says: quick runs, judged by what must hold on any machine."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner

from anonnet.bench import chain, memory, parts, plots, relay, report, scaling, sockets, tables
from anonnet.bench.parts import CELLS, Chain, Parts
from anonnet.bench.report import Node, Relay, Report
from anonnet.cli import main
from anonnet.lab.place import CALLER
from anonnet.proto.profile import Schedule, parse_profile
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


def test_every_route_of_every_link_is_forwarded() -> None:
    row = Chain(WIDE, schedule=Schedule(5_000_000, 8, 8), links=3, routes=7)
    for _ in range(50):
        now = row.feed()
        row.forward(now)
        row.drain(now)
    routes = row.exit._stats(0).routes
    assert len(routes) == 7
    assert min(route.received for route in routes) > 40 * 2, "a link of 8 cells has up to 3 routes"
    assert row.lost() <= 3 * 2 * 8


def test_the_cost_by_hand_is_positive_and_grows_with_routes() -> None:
    assert 0 < scaling.cost(1, 1, 5) < scaling.cost(1, 500, 5) * 2


def test_the_verdict_names_the_limit_that_is_broken() -> None:
    run = relay.Forwarded(1, 0, 1.0, 0.0, 0.0, 0.0, 0.0, 0)
    base = Report(report.SCHEMA, {})
    assert not list(tables.verdict(base))
    for cost, words in ((11.0, "within 12"), (13.0, "OVER 12")):
        base.node = Node([Relay("t3", "raw", 0, 1, 1, cost, 1e6 / cost, [run])], {}, {})
        assert words in next(tables.verdict(base))
    base.node.memory = {
        "keeper": memory.ProcessMemory(500.0, 1.0),
        "control": memory.ProcessMemory(30.0, 1.0),
        "data plane": memory.ProcessMemory(40.0, 1.0),
    }
    assert "70 MiB resident, OVER 60" in list(tables.verdict(base))[1]


@pytest.mark.root
def test_a_real_relay_forwards_at_the_rate_of_its_links() -> None:
    profile = parse_profile("10m")
    done = relay.forward(profile, "raw", 1.0)
    assert not left_behind()
    schedule = profile.schedule("raw", 4)
    due = 2 * schedule.cells_out * 1e9 / schedule.tick_ns
    # Statistics come twice a second, and ticks may be skipped.
    assert 0.5 * due < done.cells < 1.7 * due
    assert done.cpu_us > 0
    assert 0 < done.cpu_share < 1


@pytest.mark.root
def test_a_relay_without_anonnet_passes_everything_on_for_less() -> None:
    profile = parse_profile("10m")
    bare = relay.forward_bare(profile, "raw", 1.0)
    schedule = profile.schedule("raw", 4)
    due = 2 * schedule.cells_out * 1e9 / schedule.tick_ns
    assert 0.4 * due < bare.cells < 4 * due, "as long as the machine lets this process sleep"
    assert bare.cpu_us > 0
    assert not left_behind()


@pytest.mark.root
def test_the_kernels_of_all_nodes_forward_in_turn() -> None:
    """Each of three nodes takes one off the time to live, and the router one on each of four cables."""
    seen = []

    def look(lab: chain.Live) -> None:
        said = lab.out(CALLER, "ping", "-n", "-c", "1", lab.web)
        seen.append(int(said.split("ttl=")[1].split()[0]))

    with chain.live("10m", "raw", forwarded=look) as lab:
        assert seen == [64 - 7]
        said = lab.out(CALLER, "ping", "-n", "-c", "1", lab.web)
        assert "ttl=63" in said, "and no more once it is over"
    assert not left_behind()


@pytest.mark.root
def test_the_command_writes_what_it_prints_and_draws(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    for group in ("node", "lab", "emission"):
        result = CliRunner().invoke(
            main, ["bench", group, "--quick", "--json", str(file), "--plot", str(tmp_path)]
        )
        assert result.exit_code == 0, result.output
        assert not left_behind()
        written = json.loads(file.read_text())
        assert written["schema"] == report.SCHEMA
        if group == "node":
            total = written["node"]["relays"][0]["cpu_us"]
            assert f"relay, raw: {total:.1f} us" in result.output
        elif group == "lab":
            (path,) = written["lab"]
            assert path["idle"]["lost"] < path["idle"]["sent"] / 5
            assert 0.3 < path["flows"]["down"]["share"] < 1
            assert path["flows"]["down"]["cpu_s_per_gb_padded"] > 0
            assert path["plain"]["mbit"] > path["flows"]["down"]["mbit"][0]
            assert (tmp_path / "bench-lab.svg").stat().st_size > 1000
        else:
            for run in written["emission"]["runs"]:
                assert run["ticks"] >= 600, "of a thousand wished for, most were seen"


def test_the_command_shows_again_what_it_wrote(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    first = CliRunner().invoke(main, ["bench", "micro", "--quick", "--json", str(file)])
    assert first.exit_code == 0, first.output
    again = CliRunner().invoke(main, ["bench", "--from", str(file), "--plot", str(tmp_path / "plots")])
    assert "encipher" in again.output
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["bench-micro.svg"]
    file.write_text("{}")
    assert "no record of a benchmark" in CliRunner().invoke(main, ["bench", "--from", str(file)]).output


def test_a_plot_of_everything_is_drawn(tmp_path: Path) -> None:
    costs = [scaling.Cost(1, 1, 2.0), scaling.Cost(64, 500, 6.0)]
    everything = Report(report.SCHEMA, {}, scaling=scaling.Scaling(costs, []))
    assert [path.name for path in plots.draw(everything, tmp_path)] == ["bench-scaling.svg"]


def left_behind() -> list[Path]:
    """Namespaces and directories of this process's benchmarks."""
    mine = f"anbench{os.getpid()}-*"
    return [*Path("/run/netns").glob(mine), *Path("/run").glob(f"anonnet-bench-{os.getpid()}")]
