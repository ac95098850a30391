"""Network namespaces for these tests, and what a host looks like before and after.

    host (eth0 10.9.0.2, fd09::2) ---- veth ---- (eth0 10.9.0.1, fd09::1) outside

`host` has its default routes by `outside`, which also owns 198.51.100.7, an address "on the Internet".
"""

from __future__ import annotations

import os
import pickle
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyroute2 import netns

HOST, OUTSIDE = f"antest-host-{os.getpid()}", f"antest-out-{os.getpid()}"

_SYSCTLS = ("forwarding", "rp_filter", "src_valid_mark", "accept_redirects", "accept_ra")


def sh(*argv: str, stdin: str = "") -> str:
    return subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True).stdout


def ip(namespace: str, command: str) -> str:
    return sh("ip", "-n", namespace, *command.split())


def inside(namespace: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a child process in the namespace; return its result, or fail with its traceback."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            netns.setns(namespace)
            answer = (True, function(*args))
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(child, 0)
    if not data:
        return None  # it ended itself, as a killed process does
    ok, value = pickle.loads(data)
    assert ok, value
    return value


def snapshot(namespace: str, *files: Path) -> dict[str, object]:
    """Everything that must be the same, byte for byte, after `down`."""
    return {
        **inside(namespace, _look),
        "files": [(f.read_bytes(), f.stat().st_mode, f.stat().st_ino) for f in files],
    }


def _look() -> dict[str, object]:
    commands = (
        "ip rule",
        "ip -6 rule",
        "ip route show table all",
        "ip -6 route show table all",
        "ip -o link",
    )
    seen: dict[str, object] = {command: sh(*command.split()) for command in commands}
    seen["nft"] = sh("nft", "list", "ruleset")
    for version in ("ipv4", "ipv6"):
        for path in sorted(Path(f"/proc/sys/net/{version}/conf").glob("*/*")):
            if path.name in _SYSCTLS:
                seen[str(path)] = path.read_text()
    return seen


@contextmanager
def two_hosts() -> Iterator[None]:
    try:
        for name, number in ((HOST, 2), (OUTSIDE, 1)):
            sh("ip", "netns", "add", name)
            if number == 2:
                continue
            ip(HOST, f"link add eth0 type veth peer name eth0 netns {OUTSIDE}")
        for name, number in ((HOST, 2), (OUTSIDE, 1)):
            ip(name, "link set lo up")
            ip(name, f"addr add 10.9.0.{number}/24 dev eth0")
            ip(name, f"addr add fd09::{number}/64 dev eth0 nodad")
            ip(name, "link set eth0 up")
        ip(OUTSIDE, "addr add 198.51.100.7/32 dev lo")
        ip(OUTSIDE, "addr add 2001:db8::7/128 dev lo nodad")
        ip(HOST, "route add default via 10.9.0.1")
        ip(HOST, "route add default via fd09::1")
        inside(
            HOST, lambda: Path("/proc/sys/net/ipv4/conf/eth0/rp_filter").write_text("1")
        )  # as distributions do
        _settle()
        yield
    finally:
        for name in (HOST, OUTSIDE):
            subprocess.run(["ip", "netns", "del", name], check=False)


def _settle() -> None:
    """Wait until link-local addresses have passed duplicate address detection: routes appear meanwhile."""
    for name in (HOST, OUTSIDE):
        while "tentative" in ip(name, "addr show dev eth0"):
            pass
