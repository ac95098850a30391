"""Test vectors: known answers and, for each format, what must be refused and how.

`noise.json` is published by others (see its `source`); `python -m tests.vectors.regenerate` makes the rest. A
case of harm is {"name", "harm", "expect"}: `harm` is {"xor": [offset, byte]}, {"cut": length} or
{"add": hex}, and `expect` the name of the error, or a word that the test explains.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def load(name: str) -> Any:
    """Read a vector file."""
    return json.loads((HERE / f"{name}.json").read_text())


def harm(data: bytes, how: dict[str, Any]) -> bytes:
    """Return `data` damaged as a case says."""
    if "xor" in how:
        offset, byte = how["xor"]
        return data[:offset] + bytes([data[offset] ^ byte]) + data[offset + 1 :]
    if "cut" in how:
        return data[: how["cut"]]
    return data + bytes.fromhex(how["add"])
