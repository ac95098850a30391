"""The caller's DNS: systemd-resolved, resolvconf, or a guarded resolv.conf, in that order of preference.

A manager is used only if it really answers for this process: in a network namespace of its own (the lab)
the host's systemd-resolved is in reach of a command, but belongs to another network.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import time
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from anonnet import spec
from anonnet.errors import OperatorError
from anonnet.tun import commands
from anonnet.tun.actions import RestoreFile, Run, WriteFile
from anonnet.tun.plan import Phase, Step

RESOLV_CONF: Final = Path("/etc/resolv.conf")
RESOLVED_CONF: Final = Path("/run/systemd/resolve/resolv.conf")  # what systemd-resolved itself asks
_WRITING_SECONDS: Final = 0.1
_RECORD: Final = "tun."
_STUBS = {"127.0.0.53", "127.0.0.54"}  # systemd-resolved's listeners, systemd-resolved.service(8)

OURS: Final = (
    f"# anonnet-tun up wrote this; down puts the former content back\nnameserver {spec.INNER4_EXIT}\n"
)


class Manager(StrEnum):
    """Who decides what resolv.conf says."""

    RESOLVED = "systemd-resolved"
    RESOLVCONF = "resolvconf"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class DnsFacts:
    """How names are resolved now. `content` is None when there is no resolv.conf."""

    manager: Manager
    path: str
    content: bytes | None


def dns_steps(tun: str, facts: DnsFacts) -> list[Step]:
    """Return the steps that send every query to the inner resolver."""
    if facts.manager is Manager.RESOLVED:
        # "~." takes all names to this link (resolved.conf(5)); revert drops what we set.
        settings = (("dns", spec.INNER4_EXIT), ("domain", "~."), ("default-route", "yes"))
        return [
            Step(
                name=f"dns-{verb}",
                phase=Phase.DNS,
                do=Run(("resolvectl", verb, tun, value)),
                undo=Run(("resolvectl", "revert", tun), required=False),
            )
            for verb, value in settings
        ]
    if facts.manager is Manager.RESOLVCONF:
        # As wg-quick: the "tun." prefix sorts first in Debian's interface-order, -m 0 -x in openresolv.
        record = f"{_RECORD}{tun}"
        return [
            Step(
                name="dns",
                phase=Phase.DNS,
                do=Run(
                    ("resolvconf", "-a", record, "-m", "0", "-x"), stdin=f"nameserver {spec.INNER4_EXIT}\n"
                ),
                undo=Run(("resolvconf", "-d", record, "-f")),
            )
        ]
    ours = OURS.encode()
    return [
        Step(
            name="dns",
            phase=Phase.DNS,
            do=WriteFile(facts.path, ours),
            undo=RestoreFile(facts.path, ours, facts.content),
            survives_reboot=True,
        )
    ]


def dns_facts(path: Path = RESOLV_CONF) -> DnsFacts:
    """Look at how this host resolves names."""
    try:
        content: bytes | None = path.read_bytes()
        if not content:  # somebody may be about to write it
            time.sleep(_WRITING_SECONDS)
            content = path.read_bytes()
    except FileNotFoundError:
        content = None
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}", "run it as root") from error
    return DnsFacts(_manager(path, content), str(path), content)


def nameservers(text: str) -> list[str]:
    """Return the addresses in a resolv.conf, in order; scoped and malformed ones are left out."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            with contextlib.suppress(ValueError):
                found.append(str(ipaddress.ip_address(words[1])))
    return found


def device_of(run: Run) -> str:
    """Return the device that a command of `dns_steps` is about."""
    return run.argv[2].removeprefix(_RECORD)


def stands(run: Run) -> bool:
    """Return whether what a command of `dns_steps` has set is still set."""
    try:
        if run.argv[0] == "resolvectl":
            return run.argv[3] in commands.run(run.argv[:3]).split()
        return nameservers(RESOLV_CONF.read_text(errors="replace"))[:1] == [spec.INNER4_EXIT]
    except (OperatorError, OSError):
        return False


def write_file(action: WriteFile) -> None:
    """Overwrite in place: keeps owner and mode, and works on a bind mount (a rename would not)."""
    _overwrite(action.path, action.content)


def restore_file(action: RestoreFile) -> None:
    """Put the prior content back, byte for byte.

    If somebody else (a DHCP client in a new network) has replaced our content since, theirs is the newer
    truth and stays. A beginning of ours, or of the prior one, is a write of ours that was cut short.
    """
    try:
        current = Path(action.path).read_bytes()
    except FileNotFoundError:
        current = b""
    if not (action.ours.startswith(current) or (action.prior or b"").startswith(current)):
        return
    if action.prior is None:
        Path(os.path.realpath(action.path)).unlink(missing_ok=True)
    else:
        _overwrite(action.path, action.prior)


def _overwrite(path: str, content: bytes) -> None:
    try:
        # "wb" empties it first, so that nobody ever reads a mix of old and new.
        with Path(path).open("wb", buffering=0) as file:
            file.write(content)
            os.fsync(file.fileno())
    except OSError as error:
        hint = "is it immutable (lsattr), or a link to a place that does not exist?"
        raise OperatorError(f"cannot write {path}: {error.strerror}", hint) from error


def _manager(path: Path, content: bytes | None) -> Manager:
    target = os.path.realpath(path)
    listed = set(nameservers((content or b"").decode(errors="replace")))
    if listed and listed <= _STUBS and commands.find("resolvectl") and _resolved_is_here():
        return Manager.RESOLVED
    if "/resolvconf/" in target and commands.find("resolvconf") and not _is_mount_point(target):
        return Manager.RESOLVCONF
    return Manager.FILE


def _resolved_is_here() -> bool:
    """Return whether systemd-resolved runs, and in this process's network namespace."""
    try:
        show = ["systemctl", "show", "--property=MainPID", "--value", "systemd-resolved.service"]
        pid = commands.run(show).strip()
        return pid != "0" and Path(f"/proc/{pid}/ns/net").samefile("/proc/self/ns/net")
    except (OperatorError, OSError):
        return False


def _is_mount_point(path: str) -> bool:
    """Return whether a file is mounted over `path`, as `ip netns exec` does (os.path.ismount cannot tell)."""
    with contextlib.suppress(OSError):
        return any(line.split()[4] == path for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return False
