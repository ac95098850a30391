"""Guards and exits outlive the daemon; a damaged file is said, never replaced by a fresh draw."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest

from anonnet.errors import Malformed, OperatorError
from anonnet.ids import NodeId, node_id_text
from anonnet.node import kept
from anonnet.node.peers import parse_exclusion
from anonnet.proto.path import KnownNode

NODES = {
    node_id: KnownNode(node_id, "", bytes(32), True, frozenset(), (IPv4Address(f"10.{n}.0.1"),))
    for n in range(20)
    for node_id in [NodeId(n.to_bytes(20, "big"))]
}


def test_the_same_after_a_restart(tmp_path: Path) -> None:
    ends = kept.load(tmp_path, NODES)
    first = ends.exits.choose(list(NODES), [], 0, 0)
    kept.save_changes(tmp_path, ends)
    again = kept.load(tmp_path, NODES)
    assert again.exits.choose(list(NODES), [], 0, 0) == first
    assert [guard.expires for guard in again.exits] == [guard.expires for guard in ends.exits]
    path = tmp_path / kept.KEPT_NAME
    assert path.stat().st_mode & 0o077 == 0, "who our guards are is nobody's business"
    written = path.stat().st_mtime_ns
    kept.save_changes(tmp_path, again)
    assert path.stat().st_mtime_ns == written, "nothing to write"


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    ends = kept.load(tmp_path, NODES)
    first = ends.exits.choose(list(NODES), [], 0, 0)
    kept.save_changes(tmp_path, ends)
    (tmp_path / "guards.new").write_text('{"version": 1, "gua')
    assert kept.load(tmp_path, NODES).exits.choose(list(NODES), [], 0, 0) == first
    ends.exits.choose(list(NODES), [], 1, 0)
    kept.save_changes(tmp_path, ends)
    assert len(list(kept.load(tmp_path, NODES).exits)) == len(first) + 1


ENTRY = f'{{"id": "{node_id_text(next(iter(NODES)))}", "expires": 20000}}'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"version": 1, "guards": [',
        '{"version": 2, "guards": [], "exits": []}',
        '{"version": 1, "guards": [], "exits": [], "more": 1}',
        '{"version": 1, "guards": [{"id": "short", "expires": 1}], "exits": []}',
        f'{{"version": 1, "guards": [{ENTRY.replace("20000", "-1")}], "exits": []}}',
        f'{{"version": 1, "guards": [{ENTRY}, {ENTRY}], "exits": []}}',
    ],
)
def test_a_damaged_file_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / kept.KEPT_NAME
    path.write_text(text)
    with pytest.raises(OperatorError, match=r"guards.json is damaged") as caught:
        kept.load(tmp_path, NODES)
    assert "remove it" in caught.value.hint
    assert path.read_text() == text


def test_exclusions() -> None:
    one, two, *_ = NODES
    excluded = parse_exclusion([node_id_text(one), "10.1.0.0/16"])
    assert excluded.covers(NODES[one])
    assert excluded.covers(NODES[two])
    assert sum(excluded.covers(node) for node in NODES.values()) == 2
    assert not parse_exclusion([])
    with pytest.raises((Malformed, ValueError)):
        parse_exclusion(["nonsense"])
