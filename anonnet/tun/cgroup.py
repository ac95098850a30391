"""The cgroup of programs that stay outside of the tunnel (cgroups(7), version 2)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from anonnet.errors import OperatorError

NAME: Final = "anonnet-outside"
_ROOT: Final = Path("/sys/fs/cgroup")  # nft knows no other


def path() -> str:
    """Return the cgroup's path below /sys/fs/cgroup; OperatorError where version 2 is not mounted there."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, kind = line.partition(" - ")
        mounted = Path(fields.split()[4])
        if kind.split()[0] == "cgroup2" and mounted.is_relative_to(_ROOT):
            return str(mounted.relative_to(_ROOT) / NAME)
    hint = "mount it: mount -t cgroup2 none /sys/fs/cgroup"
    raise OperatorError(f"no cgroup version 2 below {_ROOT}", hint)


def change(add: bool, below: str) -> None:
    """Make the cgroup, or remove it unless programs still run in it."""
    place = _ROOT / below
    if not add:
        with contextlib.suppress(OSError):
            place.rmdir()
        return
    try:
        place.mkdir(exist_ok=True)
    except OSError as error:
        raise OperatorError(f"cannot make the cgroup {place}: {error.strerror}", "run it as root") from error


def stands(below: str) -> bool:
    """Return whether the cgroup is there."""
    return (_ROOT / below).is_dir()


def enter(below: str) -> None:
    """Move this process into the cgroup; its children follow."""
    try:
        (_ROOT / below / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        hint = "run it as root"
        raise OperatorError(f"cannot enter the cgroup {below}: {error.strerror}", hint) from error
