"""Lockdown: the host is blocked whenever it is not up, from boot on. A mark on disk says that it is on."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anonnet.files import write_own

_MARK: Final = "lockdown"


def is_on(state_dir: Path) -> bool:
    """Return whether the operator has switched lockdown on."""
    return (state_dir / _MARK).exists()


def switch(state_dir: Path, on: bool) -> None:
    """Remember the operator's wish, across reboots."""
    if on:
        write_own(state_dir / _MARK, b"on: see `anonnet-tun lockdown`\n")
    else:
        (state_dir / _MARK).unlink(missing_ok=True)
