"""What the benchmark says of figures: which miss their target, and in which words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anonnet.bench import chain, emission, footprint, memory, report, scaling, sockets, verdicts
from anonnet.bench.parts import Parts
from anonnet.bench.report import Micro, Node, Report
from anonnet.bench.sampled import Shares
from tests.bench.records import a_flow, a_path, a_relay


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


@pytest.mark.parametrize(("std", "found", "number"), [(90.0, False, 0), (110.0, False, 1), (90.0, True, 1)])
def test_verdicts_on_emission(std: float, found: bool, number: int) -> None:
    run = emission.Run(10_000, 0.5, 0.5, 80.0, std, 0.0, 0.0)
    record = emission.Emission("20m:1ms", 1.0, [run], found, False, [], [])
    assert len(missed(emission=record)) == number
