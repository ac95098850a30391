"""Running the system's own tools, with errors that say how to mend them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from anonnet.errors import OperatorError

_PACKAGES = {"nft": "nftables", "resolvectl": "systemd-resolved", "resolvconf": "resolvconf"}
_CAP_NET_ADMIN = 12  # linux/capability.h
_TIMEOUT = 30  # seconds; none of these tools talks to the network


def find(tool: str) -> str | None:
    """Return the path of a tool, also when sudo's or cron's PATH lacks the sbin directories."""
    return shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")


def run(argv: Sequence[str], stdin: str = "") -> str:
    """Run a tool and return what it printed; raise OperatorError with its own words when it fails."""
    path = find(argv[0])
    if path is None:
        package = _PACKAGES.get(argv[0], argv[0])
        raise OperatorError(f"{argv[0]} is not installed", f"install it (Debian: apt-get install {package})")
    try:
        done = subprocess.run(
            [path, *argv[1:]], input=stdin, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OperatorError(f"`{' '.join(argv)}` does not finish", "run it by hand to see why") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = said[0] if said else f"exit code {done.returncode}"
        raise OperatorError(f"`{' '.join(argv)}` failed: {reason}", _hint(argv[0], reason))
    return done.stdout


def require_net_admin() -> None:
    """Raise OperatorError unless this process may change the network (CAP_NET_ADMIN, capabilities(7))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and not int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1:
            raise OperatorError("may not change this host's network (no CAP_NET_ADMIN)", "run it with sudo")


def _hint(tool: str, reason: str) -> str:
    if "not permitted" in reason:
        return "run it with sudo"
    if tool == "nft":
        return "does this kernel have nf_tables? (modprobe nf_tables; in a container, ask its host)"
    return "run it by hand to see more"
