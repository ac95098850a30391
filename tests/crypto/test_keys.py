"""The key file: what goes in comes out, once, for its owner only; and nothing is printed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from anonnet.crypto.keys import KEYS_FILE, NodeKeys, load_keys, save_keys
from anonnet.errors import OperatorError


@pytest.fixture
def saved(tmp_path: Path) -> tuple[NodeKeys, Path]:
    keys = NodeKeys.generate()
    return keys, save_keys(keys, tmp_path / "state")


def test_round_trip(saved: tuple[NodeKeys, Path]) -> None:
    keys, path = saved
    again = load_keys(path.parent)
    for name in ("identity", "link", "onion"):
        assert getattr(again, name).private_bytes_raw() == getattr(keys, name).private_bytes_raw()
    assert again.node_id == keys.node_id
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == [KEYS_FILE]


def test_never_over_another(saved: tuple[NodeKeys, Path]) -> None:
    _, path = saved
    before = path.read_bytes()
    with pytest.raises(OperatorError, match="exists"):
        save_keys(NodeKeys.generate(), path.parent)
    assert path.read_bytes() == before


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_mode_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        path = save_keys(NodeKeys.generate(), tmp_path)
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o666])
def test_readable_by_others(saved: tuple[NodeKeys, Path], mode: int) -> None:
    _, path = saved
    path.chmod(mode)
    with pytest.raises(OperatorError, match="chmod 600"):
        load_keys(path.parent)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="anonnet-tun keygen"):
        load_keys(tmp_path)


def test_every_damaged_byte_is_noticed(saved: tuple[NodeKeys, Path]) -> None:
    keys, path = saved
    good = path.read_bytes()
    for position in range(0, len(good), 3):
        bad = bytearray(good)
        bad[position] ^= 0x01
        path.write_bytes(bad)
        if _same_json(bytes(bad), good):  # white space, or its like
            assert load_keys(path.parent).node_id == keys.node_id
            continue
        with pytest.raises(OperatorError, match="damaged") as caught:
            load_keys(path.parent)
        assert caught.value.__cause__ is None  # a parser's message could quote a key


def _same_json(one: bytes, other: bytes) -> bool:
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 4000, "x" * 10_000, '{"version": 1}'])
def test_damaged(saved: tuple[NodeKeys, Path], text: str) -> None:
    _, path = saved
    path.write_text(text)
    with pytest.raises(OperatorError, match="damaged"):
        load_keys(path.parent)


def test_truncated(saved: tuple[NodeKeys, Path]) -> None:
    _, path = saved
    good = path.read_bytes()
    for length in range(0, len(good) - 2, 7):
        path.write_bytes(good[:length])
        with pytest.raises(OperatorError, match="damaged"):
            load_keys(path.parent)


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="cannot write"):
        save_keys(NodeKeys.generate(), tmp_path / "file" / "state")


def test_not_printed() -> None:
    assert repr(NodeKeys.generate()) == "NodeKeys()"
