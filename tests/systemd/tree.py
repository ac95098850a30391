"""A Debian tree with AnonNet in it, made as vagrant/ makes its machines and kept below build/ for next time.

mmdebstrap makes the bare system, vagrant/install.sh all the rest; only the second is done anew for each run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.lab.live import until

ROOT: Final = Path(__file__).parents[2]
CACHE: Final = ROOT / "build" / "systemd"
SUITE: Final = "bookworm"
# A machine as operators have it: systemd, ifupdown with dhclient. And make, as for any checkout.
PACKAGES: Final = (
    "systemd-sysv", "dbus", "udev", "iproute2", "ifupdown", "isc-dhcp-client", "ca-certificates", "kmod",
    "make",
)  # fmt: skip
GUEST_PYTHON: Final = (3, 11)  # of SUITE
TOOLS: Final = ("mmdebstrap", "systemd-nspawn", "dnsmasq")
SPAWN: Final = ("--quiet", "--register=no", "--keep-unit")  # nothing on this machine need know of the guest
_CGROUPS: Final = (
    "! mountpoint -q /sys/fs/cgroup || umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup"
)
_OWN: Final = f"/sys/fs/cgroup/anonnet-guest-{os.getpid()}"


def build() -> Path:
    """Return the tree, with the present sources installed in it; it must not be booted itself."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"not installed: {', '.join(missing)}; `sudo make packages` does"
    base = CACHE / f"tree-{_digest(SUITE, *PACKAGES)}"
    if not base.exists():
        _bootstrap(base)
    provision(base)
    return base


def provision(tree: Path) -> None:
    """Put the present sources where Vagrant does, and run its script."""
    shutil.rmtree(tree / "anonnet", ignore_errors=True)
    for name in _sources():
        copy = tree / "anonnet" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, copy)
    run(tree, "/anonnet/vagrant/install.sh", options=offline())


def offline() -> list[str]:
    """Return the options of `run` with which pip needs no network."""
    return [f"--bind-ro={_wheels()}:/wheels", "--setenv=PIP_NO_INDEX=1", "--setenv=PIP_FIND_LINKS=/wheels"]


def run(tree: Path, *command: str, options: Sequence[str] = ()) -> str:
    """Run a command in the tree, unbooted, with this machine's network; return what it said."""
    spawn = ["systemd-nspawn", *SPAWN, "--pipe", "--resolv-conf=replace-host", f"--directory={tree}"]
    spawn.append("--setenv=SYSTEMD_COLORS=0")
    try:
        return _do([*alone(), *spawn, *options, *command])
    finally:
        forget()


def _wheels() -> Path:
    """Return what AnonNet needs from PyPI, fetched with this machine's settings: a guest has none of them."""
    assert sys.version_info[:2] == GUEST_PYTHON, f"wheels must be for the guest's Python, {GUEST_PYTHON}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    place = CACHE / f"wheels-{_digest(*wanted)}"
    if not place.exists():
        fresh = place.with_suffix(".new")
        _do([sys.executable, "-m", "pip", "wheel", "-q", "-w", str(fresh), *wanted])
        fresh.rename(place)
    return place


def _digest(*texts: str) -> str:
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()[:12]


def _sources() -> list[str]:
    """Return the names of the checkout's files, also of those that are new."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    return [name for name in _do(listed).split("\0") if name and (ROOT / name).is_file()]


def _bootstrap(base: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    for old in CACHE.glob("tree-*"):
        shutil.rmtree(old)
    fresh = base.with_suffix(".new")
    _do(["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(fresh)])
    (fresh / "etc/resolv.conf").unlink(missing_ok=True)
    # Without one it would take each boot for its first, and enable all that Debian ships.
    (fresh / "etc/machine-id").write_text(f"{os.urandom(16).hex()}\n")
    fresh.rename(base)


def alone() -> list[str]:
    """Return what gives a command a mount namespace with nothing but cgroup version 2, as Debian boots.

    The cgroups of this machine, of whatever version, are none of the guest's business: it gets its own.
    """
    script = f'{_CGROUPS}; mkdir -p {_OWN}; echo $$ > {_OWN}/cgroup.procs; exec "$@"'
    return ["unshare", "--mount", "sh", "-ec", script, "sh"]


def forget() -> None:
    """Remove the cgroups that `alone` made, once nothing runs in them."""
    script = f"{_CGROUPS}; ! test -d {_OWN} || find {_OWN} -depth -type d -exec rmdir {{}} + 2>&1"

    def gone() -> bool:
        return not subprocess.run(["unshare", "--mount", "sh", "-ec", script], check=False).returncode

    until(gone, 10, "the guest's cgroups to be empty")


def _do(command: Sequence[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout
