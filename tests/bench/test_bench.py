"""The benchmark measures what it says: quick runs, judged by what must hold on any machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anonnet import native
from anonnet.bench import chain, footprint, mesh, parts, plots, relay, report, scaling, sockets
from anonnet.bench.children import burn, cpu_ns, end_all, fork
from anonnet.bench.parts import CELLS, Chain, Parts
from anonnet.bench.report import Node, Report
from anonnet.bench.sampled import PERIOD_NS, Sampler
from anonnet.cli import main
from anonnet.errors import OperatorError
from anonnet.lab.place import CALLER
from anonnet.lab.topology import Role
from anonnet.proto.profile import Schedule, parse_profile
from anonnet.spec import FORMATS, NARROW, WIDE, Format
from tests.bench.records import a_path, a_relay
from tests.lab.live import until


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


def read_nothing() -> None:
    with open("/dev/zero", "rb", buffering=0) as zeros:
        memory = bytearray(2**20)
        while True:
            zeros.readinto(memory)


def encipher() -> None:
    cipher, text = AESGCM(bytes(16)), bytes(2**20)
    room = bytearray(len(text) + 16)  # or the kernel would be busy with new memory
    while True:
        cipher.encrypt_into(bytes(12), text, None, room)


def counts_nothing_anew(sampler: Sampler) -> bool:
    """Whether none of the samples is counted: who is told of a stop may be ahead of its last sample."""
    sampler.begin_anew()
    try:
        sampler.shares()
    except RuntimeError:
        return True
    return False


@pytest.mark.root
@pytest.mark.parametrize(("work", "name"), [(read_nothing, "kernel"), (encipher, "ciphers"), (burn, "own")])
def test_samples_tell_whose_time_it_is(work: Callable[[], None], name: str) -> None:
    pid = fork(work)
    try:
        with closing(Sampler(pid)) as sampler:
            enough = cpu_ns(pid) + 1000 * PERIOD_NS
            until(lambda: cpu_ns(pid) > enough, 60, "CPU time")
            shares = sampler.shares()
            os.kill(pid, signal.SIGSTOP)
            os.waitpid(pid, os.WUNTRACED)
            until(lambda: counts_nothing_anew(sampler), 60, "a process that stands still")
    finally:
        end_all([pid])
    assert getattr(shares, name) > 0.5, "the kernel's part has what other processes' packets take"
    assert shares.kernel + shares.ciphers + shares.own == pytest.approx(1)
    assert shares.samples > 500


def test_who_may_not_be_sampled_is_an_error_to_act_on() -> None:
    with pytest.raises(OperatorError, match="perf_event_open"):
        Sampler(-2)


@pytest.mark.parametrize(("nodes", "links", "neighbours"), [(3, 3, 2), (6, 12, 4), (12, 24, 4)])
def test_a_mesh_gives_each_node_as_many_neighbours(nodes: int, links: int, neighbours: int) -> None:
    topology = mesh.lay_out(nodes, "10m")
    assert len(topology.links) == links
    assert {len(set(topology.neighbours(host.name))) for host in topology.nodes} == {neighbours}
    roles = [host.role for host in topology.nodes]
    assert roles.count(Role.CALLER) == roles.count(Role.EXIT) == nodes // 3


@pytest.mark.usefixtures("fast")
def test_routes_and_links_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.OVERRIDE, "true")
    found = footprint.measure()
    assert 1000 < found.route < 8000
    assert 1232 < found.link < 200_000, "more than a datagram"


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
def test_all_callers_of_a_mesh_download_at_once() -> None:
    found = mesh.measure(6, "2m", 1.0)
    assert not left_behind()
    assert len(found.mbit) == len(found.circuit_ms) == len(found.echo_ms) == found.callers == 2
    assert all(0 < mbit < 4 for mbit in found.mbit), "of four links at the most"
    assert len(found.relays) == 2
    assert min(found.cell_us.values()) > 0


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
            sampled = written["node"]["relays"][0].get("sampled")
            if sampled:  # the kernel lets us
                assert 0.05 < sampled["shares"]["ciphers"] < 0.6
                assert "whose time it is" in result.output
            assert written["node"]["bare"]["100m raw"]["cpu_us"] > 0
        elif group == "lab":
            (path,) = written["lab"]
            assert path["idle"]["lost"] < path["idle"]["sent"] / 5
            assert 0.3 < path["flows"]["down"]["share"] < 1
            assert path["flows"]["down"]["cpu_s_per_gb_padded"] > 0
            assert path["plain"]["mbit"] > path["flows"]["down"]["mbit"][0]
            proxied = written["proxy"]
            assert 0 < proxied["mbit"] < proxied["wire_mbit"]
            assert proxied["cpu_s_per_gb"] > 0
            assert 0 < path["circuit_ms"] < 1000 * path["up_s"]
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
    before = file.read_text()
    for spoilt, says in (
        ("{}", "no record of a benchmark"),
        (before[:-20], "no record of a benchmark"),
        ("\udcff", "no record of a benchmark"),
        (before.replace('"schema": 3', '"schema": 2'), "a record of schema 2"),
    ):
        file.write_bytes(spoilt.encode(errors="surrogateescape"))
        refused = CliRunner().invoke(main, ["bench", "--from", str(file)])
        assert refused.exit_code == 1
        assert says in refused.output


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_what_cannot_be_written_is_said_before_anything_is_measured(option: str) -> None:
    result = CliRunner().invoke(main, ["bench", "micro", option, "/proc/nothing/here"])
    assert result.exit_code == 1
    assert "/proc/nothing/here cannot be" in result.output
    assert "micro:" not in result.output


def test_pictures_without_matplotlib_are_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    result = CliRunner().invoke(main, ["bench", "micro", "--plot", str(tmp_path)])
    assert result.exit_code == 1
    assert "pip install" in result.output


def test_who_may_not_make_namespaces_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = CliRunner().invoke(main, ["bench"])
    assert result.exit_code == 1
    assert "sudo" in result.output
    assert "micro:" not in result.output


def test_what_was_measured_before_a_part_fails_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def paths(*_: object) -> Iterator[chain.Measured]:
        yield a_path("t3")
        raise OperatorError("the second chain fails", "")

    monkeypatch.setattr(report, "_lab", paths)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    file = tmp_path / "bench.json"
    assert CliRunner().invoke(main, ["bench", "lab", "--json", str(file)]).exit_code == 1
    assert [path.name for path in report.load(file.read_bytes()).lab] == ["t3 raw"]


@pytest.mark.root
@pytest.mark.parametrize(("group", "number"), [("node", signal.SIGINT), ("lab", signal.SIGTERM)])
def test_interrupted_it_leaves_nothing(group: str, number: signal.Signals) -> None:
    """As a terminal does it: ^C is heard by all of its processes."""
    command = [sys.executable, "-m", "anonnet.cli", "bench", group, "--quick"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        until(lambda: left_behind(process.pid), 60, "its namespaces")
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    assert said.endswith("interrupted\n")
    assert "Traceback" not in said
    assert process.returncode == 130
    assert left_behind(process.pid) == []


def test_a_plot_of_everything_is_drawn(tmp_path: Path) -> None:
    costs = [scaling.Cost(1, 1, 2.0), scaling.Cost(64, 500, 6.0)]
    everything = Report(
        report.SCHEMA, {}, node=Node([a_relay("raw", 9.0)], {"100m raw": relay.Bare(1, 4.0)}, {}),
        lab=[a_path("t3"), a_path("t3", delay_ms=20)], scaling=scaling.Scaling(costs, [a_path("10m")]),
    )  # fmt: skip
    drawn = plots.draw(everything, tmp_path)
    assert [path.name for path in drawn] == ["bench-node.svg", "bench-scaling.svg", "bench-lab.svg"]
    by_hand = Report(report.SCHEMA, {}, scaling=scaling.Scaling(costs, []))
    assert [path.name for path in plots.draw(by_hand, tmp_path / "new")] == ["bench-scaling.svg"]


def left_behind(pid: int | None = None) -> list[Path]:
    """Namespaces and directories of a process's benchmarks, this one's unless said otherwise."""
    pid = pid or os.getpid()
    return [*Path("/run/netns").glob(f"anbench{pid}-*"), *Path("/run").glob(f"anonnet-bench-{pid}")]
