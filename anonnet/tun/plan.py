"""Plans: lists of steps, each a do and the undo that restores exactly what was there before."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from anonnet.tun.actions import Action


class Phase(StrEnum):
    """The order of `up`; `down` runs it backwards, so that the firewall stands from first to last."""

    FIREWALL = "firewall"
    TUN = "tun"
    ROUTES = "routes"
    DNS = "dns"


class Step(msgspec.Struct, frozen=True):
    """One change. `name` is unique within a journal, so that a repeated step replaces its old entry."""

    name: str
    phase: Phase
    do: Action
    undo: Action
    survives_reboot: bool = False  # only changes to files on disk do
