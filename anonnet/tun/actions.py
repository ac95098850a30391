"""Single changes to the host, as data: what the journal stores and what --verbose prints.

Each prints (`str`) as the command that an administrator would type for the same effect, after wg-quick.
Every one of them may be performed twice: adding what exists and removing what is gone are not errors, so
that an undo interrupted half-way can simply be run again.
"""

from __future__ import annotations

import socket

import msgspec

MAIN_TABLE = 254  # RT_TABLE_MAIN, linux/rtnetlink.h
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


class _Action(msgspec.Struct, frozen=True, tag=True):
    """Base: frozen, and tagged with its name in JSON."""


class Nft(_Action, frozen=True):
    """Hand `script` to `nft -f -`: one transaction, all of it or nothing."""

    script: str
    summary: str  # one line for people
    learns: bool = False  # whether it would lose something if it were made anew

    def __str__(self) -> str:
        return f"nft -f - <<< '{self.summary}'"


class Rule(_Action, frozen=True):
    """Add or delete a policy routing rule for packets to a range, with a mark, without one, of sockets that
    are bound to a device (`by`), that came in by one (`came_by`), or of UDP ports (`udp`: source and
    destination).
    """

    add: bool
    version: int  # 4 or 6
    priority: int
    table: int
    not_fwmark: int | None = None
    to: str | None = None
    fwmark: int | None = None
    by: str = ""
    udp: tuple[int, int] | None = None
    came_by: str = ""

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return int(_FAMILY[self.version])

    def __str__(self) -> str:
        selector = f"to {self.to} " if self.to else ""
        if self.by:
            selector += f"oif {self.by} "
        if self.came_by:
            selector += f"iif {self.came_by} "
        if self.not_fwmark is not None:
            selector += f"not fwmark {self.not_fwmark:#x} "
        if self.fwmark is not None:
            selector += f"fwmark {self.fwmark:#x} "
        if self.udp is not None:
            selector += "ipproto udp sport {} dport {} ".format(*self.udp)
        table = "main" if self.table == MAIN_TABLE else self.table
        verb = "add" if self.add else "del"
        return f"ip -{self.version} rule {verb} {selector}lookup {table} priority {self.priority}"


class Route(_Action, frozen=True):
    """Add or delete the route to `to` (a range, or "default") by `device`, preferring `source` if any."""

    add: bool
    version: int
    to: str
    device: str
    table: int = MAIN_TABLE
    source: str = ""

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6."""
        return int(_FAMILY[self.version])

    def __str__(self) -> str:
        verb = "add" if self.add else "del"
        source = f" src {self.source}" if self.source else ""
        table = "" if self.table == MAIN_TABLE else f" table {self.table}"
        return f"ip -{self.version} route {verb} {self.to} dev {self.device}{source}{table}"


class Sysctl(_Action, frozen=True):
    """Write `value` to `key`, which is a path below /proc/sys (names of devices may hold dots)."""

    key: str
    value: str

    def __str__(self) -> str:
        return f"echo {self.value} > /proc/sys/{self.key}"


class WriteFile(_Action, frozen=True):
    """Overwrite `path` in place with `content`."""

    path: str
    content: bytes

    def __str__(self) -> str:
        return f"write {self.path}"


class RestoreFile(_Action, frozen=True):
    """Put `prior` back (None: remove the file), unless somebody has since replaced our content."""

    path: str
    ours: bytes
    prior: bytes | None

    def __str__(self) -> str:
        return f"restore {self.path}"


class Run(_Action, frozen=True):
    """Run a command, with `stdin`. `required` false: its failure is no matter (its device may be gone)."""

    argv: tuple[str, ...]
    stdin: str = ""
    required: bool = True

    def __str__(self) -> str:
        return " ".join(self.argv) + (f" <<< '{self.stdin.strip()}'" if self.stdin else "")


class CreateTun(_Action, frozen=True):
    """Create a TUN device with its owner's tag and its addresses, and bring it up; gives a `device.Tun`."""

    name: str
    owner: str  # what made it: one host may have the exit's and the caller's
    addresses: tuple[str, ...]  # with prefix lengths
    mtu: int

    def __str__(self) -> str:
        return f"ip tuntap add {self.name} mode tun; mtu {self.mtu}, {', '.join(self.addresses)}"


class DeleteTun(_Action, frozen=True):
    """Delete the device, whoever still holds its descriptor. One that is not tagged as its owner's stays."""

    name: str
    owner: str

    def __str__(self) -> str:
        return f"ip link del {self.name}"


class Cgroup(_Action, frozen=True):
    """Make or remove a cgroup, `path` below /sys/fs/cgroup."""

    add: bool
    path: str

    def __str__(self) -> str:
        return f"{'mkdir' if self.add else 'rmdir'} /sys/fs/cgroup/{self.path}"


Action = Nft | Rule | Route | Sysctl | WriteFile | RestoreFile | Run | CreateTun | DeleteTun | Cgroup
