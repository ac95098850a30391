"""The benchmark measures what it says: quick runs, judged by what must hold on any machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from anonnet import native
from anonnet.bench import (
    chain,
    emission,
    footprint,
    memory,
    mesh,
    parts,
    plots,
    relay,
    report,
    scaling,
    sockets,
    verdicts,
)
from anonnet.bench.children import burn, cpu_ns, end_all, fork
from anonnet.bench.parts import CELLS, Chain, Parts
from anonnet.bench.report import Micro, Node, Relay, Report
from anonnet.bench.sampled import PERIOD_NS, Sampler, Shares
from anonnet.cli import main
from anonnet.errors import OperatorError
from anonnet.lab.place import CALLER
from anonnet.lab.topology import Role
from anonnet.proto.profile import Schedule, parse_profile
from anonnet.spec import FORMATS, NARROW, WIDE, Format
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


def a_relay(transport: str, cost: float, rate: str = "t3") -> Relay:
    run = relay.Forwarded(1, 0, 1.0, 0.0, 0.0, 0.0, 0.0, 0)
    return Relay(rate, transport, 0, 1, 1, cost, 1e6 / cost, [run])


IDLE = chain.Echoes(10, 0, 12.0, 12.0, 13.0)


def a_flow(**other: Any) -> chain.Flow:
    """A flow in which all is well; `other` replaces fields of it."""
    good = chain.Flow(
        mbit=(260.0,), share=0.9, resent=0, echoes=IDLE, key_ms=12.0, core={}, cpu_s_per_gb_padded=30.0,
        cpu_s_per_gb_carried=60.0, skipped={"r1": 0, "r2": 0}, late={}, stalls_ms=[], stalls_excuse=0,
    )  # fmt: skip
    return replace(good, **other)


def a_path(rate: str, transport: str = "raw", **other: Any) -> chain.Measured:
    """A chain at which all is well; `other` replaces fields of it, or of its flow."""
    names = {field.name for field in fields(chain.Flow)}
    flow = a_flow(**{name: value for name, value in other.items() if name in names})
    good = chain.Measured(
        rate=rate, transport=transport, hops=3, delay_ms=0, wire_mbit=parse_profile(rate).rate_in / 1e6,
        tick_ms=2.0, cells_per_tick=20, load=0.0, plain=None, up_s=1.0, circuit_ms=180.0, first_byte_s=1.5,
        setup_ms=[], idle=IDLE, key_ms=12.0, get_ms=30.0, get_by_name_ms=50.0, flows={"down": flow},
        memory={},
    )  # fmt: skip
    return replace(good, **{name: value for name, value in other.items() if name not in names})


def judged(**groups: Any) -> list[str]:
    return list(verdicts.verdicts(Report(report.SCHEMA, {}, **groups)))


def missed(**groups: Any) -> list[str]:
    """What misses its target, without the word that says so."""
    return [line.split(maxsplit=1)[1] for line in judged(**groups) if line.startswith(verdicts.MISSED)]


def test_no_verdict_about_what_was_not_measured() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("transport", "cost", "rest"),
    [("raw", 11.9, []), ("udp", 6.9, []), ("raw", 12.4, ["relay, raw: 12.4 us"])],
)
def test_verdicts_on_a_relay(transport: str, cost: float, rest: list[str]) -> None:
    found = missed(node=Node([a_relay(transport, cost)], {}, {}))
    assert [line[: len(text)] for line, text in zip(found, rest, strict=True)] == rest


def test_a_relay_is_judged_by_what_it_switches_at_its_best() -> None:
    slow, fast = a_relay("udp", 9.0), a_relay("udp", 7.0, "250m")
    assert len(missed(node=Node([slow], {}, {}))) == 2
    assert len(missed(node=Node([slow, fast], {}, {}))) == 1


def test_own_part_of_a_cell_is_what_neither_kernel_nor_ciphers_take() -> None:
    part = Parts(seal=0.5, open=0.5, encipher=1.0, decipher=1.0, switch=4.0, kept_blocks=0, peak_kib=1)
    kernel = {"raw": sockets.SocketCost(1.0, 0.5)}
    micro = Micro({"wide": part}, {"wide": kernel})
    (hot,) = missed(micro=micro)
    assert "4.00 us (at most 3.50)" in hot
    node = Node([a_relay("raw", 9.0)], {}, {})
    assert len(missed(node=node)) == 0, "nothing is said of whose what is that was not sampled"
    (run,) = node.relays[0].runs
    node.relays[0].sampled = replace(run, cpu_us=10.0, shares=Shares(0.2, 0.3, 0.5, 1000))
    (_, real) = missed(micro=micro, node=node)
    assert "by hot figures 5.5 and 3.5: 5.0 us a cell (at most 4.0)" in real
    (real,) = missed(node=node)
    assert "hot" not in real
    node.relays[0].sampled = replace(run, cpu_us=10.0, shares=Shares(0.3, 0.3, 0.4, 1000))
    assert missed(node=node) == []


def read_nothing() -> None:
    with open("/dev/zero", "rb", buffering=0) as zeros:
        memory = bytearray(2**20)
        while True:
            zeros.readinto(memory)


def encipher() -> None:
    cipher, text = AESGCM(bytes(16)), bytes(2**20)
    while True:
        cipher.encrypt(bytes(12), text, None)


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
    assert getattr(shares, name) > 0.6
    assert shares.kernel + shares.ciphers + shares.own == pytest.approx(1)
    assert shares.samples > 500


def test_who_may_not_be_sampled_is_an_error_to_act_on() -> None:
    with pytest.raises(OperatorError, match="perf_event_open"):
        Sampler(-2)


def test_verdicts_on_an_idle_nodes_memory_leave_the_keeper_out() -> None:
    def node(mib: float) -> Node:
        sizes = {"keeper": 500.0, "control": 30.0, "data plane": mib}
        return Node([], {}, {name: memory.ProcessMemory(size, 1.0) for name, size in sizes.items()})

    assert missed(node=node(27.0)) == []  # 59.8 MB
    assert "73.4 MB" in missed(node=node(40.0))[0]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (a_path("t3"), []),
        (a_path("t3", circuit_ms=190.0), ["a circuit"]),
        (a_path("t3", first_byte_s=2.1), ["first byte"]),
        (a_path("modem", first_byte_s=9.0), []),
        (a_path("t3", tick_ms=1.0), ["8 ticks"]),
        (a_path("100m", get_ms=48.0), ["small page"]),
        (a_path("t3", get_ms=48.0), []),
        (a_path("250m", "udp"), []),
        (a_path("250m", "udp", skipped={"r1": 0, "r2": 3}), ["ticks skipped by one node"]),
        (a_path("150m", share=0.84), ["goodput"]),
        (a_path("250m", "udp", mbit=(140.0,)), ["goodput of a single circuit"]),
        (a_path("150m", cpu_s_per_gb_padded=41.0), ["CPU"]),
        (a_path("t3", delay_ms=20), []),
        (a_path("t3", delay_ms=20, share=0.79), ["goodput down"]),
        (a_path("t3", share=0.79), []),
        (a_path("t3", echoes=chain.Echoes(9, 0, 25.0, 25.0, 26.0)), ["echo beside"]),
    ],
)  # fmt: skip
def test_verdicts_on_a_chain(path: chain.Measured, words: list[str]) -> None:
    found = missed(lab=[path])
    assert len(found) == len(words), found
    for line, word in zip(found, words, strict=True):
        assert word in line


def test_of_several_chains_the_best_circuit_counts() -> None:
    assert missed(lab=[a_path("150m", mbit=(130.0,)), a_path("250m", "udp", mbit=(210.0,))]) == []


def test_both_ways_at_once_the_lesser_counts() -> None:
    paths = [replace(a_path("380m", "udp"), flows={"both": a_flow(mbit=(310.0, n))}) for n in (290.0, 302.0)]
    assert missed(lab=paths) == []
    (line,) = missed(lab=paths[:1])
    assert "both ways at once (stretch): 290.0 Mbit/s each way" in line


def test_verdicts_on_growth() -> None:
    costs = [scaling.Cost(1, 1, 2.0), scaling.Cost(1, 64, 2.0), scaling.Cost(1, 500, 2.2)]
    costs += [scaling.Cost(64, 64, 2.4), scaling.Cost(64, 500, 2.5)]
    (line,) = missed(scaling=scaling.Scaling(costs, []))
    assert "1 to 64 links with 64 routes, times: 1.20" in line
    assert missed(footprint=footprint.Footprint(7_900, 190_000)) == []
    assert len(missed(footprint=footprint.Footprint(8_100, 210_000))) == 2


def test_whole_relays_are_judged_by_load_and_transport() -> None:
    def whole(links: int, routes: int, us: float, transport: str, load: str, **rest: Any) -> scaling.Whole:
        return scaling.Whole(links, routes, us, transport, "2m", load, **rest)

    relays = [
        whole(1, 64, 5.0, "raw", scaling.LIGHT), whole(64, 64, 5.5, "raw", scaling.LIGHT),
        whole(1, 64, 4.0, "udp", scaling.LIGHT), whole(64, 64, 5.0, "udp", scaling.LIGHT),
        whole(1, 64, 4.0, "udp", scaling.LOADED), whole(64, 64, 4.1, "udp", scaling.LOADED),
        whole(1, 1, 20.0, "raw", scaling.ADDED), whole(64, 64, 5.0, "raw", scaling.ADDED),
    ]  # fmt: skip
    (line,) = missed(scaling=scaling.Scaling([], [], relays))
    assert "whole relay, lightly loaded, udp, 1 to 64 links with 64 routes, times: 1.25" in line
    overloaded = whole(1, 500, 3.0, "udp", scaling.LOADED, missed=0.06)
    (line, _) = missed(scaling=scaling.Scaling([], [], [*relays, overloaded]))
    assert "whole relay, loaded, udp: cells lost, at worst: 6.0%" in line


@pytest.mark.parametrize(("nodes", "links", "neighbours"), [(3, 3, 2), (6, 12, 4), (12, 24, 4)])
def test_a_mesh_gives_each_node_as_many_neighbours(nodes: int, links: int, neighbours: int) -> None:
    topology = mesh.lay_out(nodes, "10m")
    assert len(topology.links) == links
    assert {len(set(topology.neighbours(host.name))) for host in topology.nodes} == {neighbours}
    roles = [host.role for host in topology.nodes]
    assert roles.count(Role.CALLER) == roles.count(Role.EXIT) == nodes // 3


@pytest.mark.parametrize(("std", "found", "number"), [(90.0, False, 0), (110.0, False, 1), (90.0, True, 1)])
def test_verdicts_on_emission(std: float, found: bool, number: int) -> None:
    run = emission.Run(10_000, 0.5, 0.5, 80.0, std, 0.0, 0.0)
    record = emission.Emission("20m:1ms", 1.0, [run], found, False, [], [])
    assert len(missed(emission=record)) == number


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
