"""Guards and exits on disk (proto.guards): one JSON file, replaced whole at each change."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from anonnet.errors import Malformed, OperatorError
from anonnet.ids import NodeId, node_id_text, parse_node_id
from anonnet.node.files import replace
from anonnet.proto.guards import Exits, Guards
from anonnet.proto.kept import Kept, KeptNodes
from anonnet.proto.path import KnownNode
from anonnet.proto.planner import Ends

KEPT_NAME: Final = "guards.json"
DAY_SECONDS: Final = 86_400

Day = Annotated[int, Meta(ge=0, lt=1_000_000)]


class _Entry(Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    expires: Day
    unlisted: Day | None = None


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    version: Annotated[int, Meta(ge=1, le=1)]
    guards: tuple[_Entry, ...]
    exits: tuple[_Entry, ...]


def today() -> int:
    """Days since 1970, by the wall clock."""
    return int(time.time()) // DAY_SECONDS


def load(directory: Path, nodes: Mapping[NodeId, KnownNode]) -> Ends:
    """Read what was kept; OperatorError if it is damaged: nothing is drawn anew unasked."""
    path = directory / KEPT_NAME
    try:
        file = msgspec.json.decode(path.read_bytes(), type=_File)
        guards, exits = _parse(file.guards), _parse(file.exits)
    except FileNotFoundError:
        guards, exits = [], []
    except (OSError, msgspec.MsgspecError, Malformed) as error:
        hint = f"restore it, or remove it, and this host draws new guards and exits ({error})"
        raise OperatorError(f"{path} is damaged", hint) from None
    return Ends(Guards(nodes, os.urandom, today, guards), Exits(nodes, os.urandom, today, exits))


def save_changes(directory: Path, ends: Ends) -> None:
    """Write what is to be kept, if it has changed."""
    if ends.guards.changed or ends.exits.changed:
        ends.guards.changed = ends.exits.changed = False
        file = _File(1, _entries(ends.guards), _entries(ends.exits))
        text = msgspec.json.format(msgspec.json.encode(file), indent=1).decode()
        replace(directory / KEPT_NAME, text + "\n")


def _parse(entries: tuple[_Entry, ...]) -> list[Kept]:
    found = [Kept(parse_node_id(entry.id), entry.expires, entry.unlisted) for entry in entries]
    if len({one.node_id for one in found}) < len(found):
        raise Malformed("a node is there twice")
    return found


def _entries(kept: KeptNodes) -> tuple[_Entry, ...]:
    return tuple(_Entry(node_id_text(one.node_id), one.expires, one.unlisted) for one in kept)
