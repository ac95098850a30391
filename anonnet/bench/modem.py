r"""What ssh and small pages are like over a modem: a real ssh, key by key, with and without AnonNet.

    python -m anonnet.bench.modem [--rates 28.8k modem] [--keys 30]

    ssh (on a terminal) ---- caller ==shaped== r1 ---- r2 ---- x1 ~~~ web: sshd

Without AnonNet the kernels of the nodes forward, over the same shaped cable: what there is to be had. Needs
root, and sshd (`apt install openssh-server`), which is only run in the lab.
"""

from __future__ import annotations

import argparse
import os
import pty
import select
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from anonnet.bench.chain import COMMAND_SECONDS, Live, live, shape
from anonnet.bench.children import require_root
from anonnet.errors import OperatorError
from anonnet.lab.place import CALLER, WEB

KEYS: Final = 30
PINGS: Final = 10
PAGES: Final = ("2kB", "10kB")  # each over a connection of its own
GETS: Final = 5
PAUSE_TICKS: Final = (3.0, 4.0)  # from an echo to the next key: evenly, as echoes come in step with ticks
MODEM_BUFFER: Final = 1 << 16  # bytes that wait for the line
SSH_PORT: Final = 22
PRIVILEGE_SEPARATION: Final = Path("/run/sshd")  # which Debian's sshd insists on
READY: Final = b"ready"
KEY: Final = b"k"


class Interactive(msgspec.Struct):
    """What a person waits for; ms, medians unless said otherwise."""

    echo: float  # an ICMP echo, idle
    login_s: float  # from ssh's start to the remote program's first words
    key: float  # a key press, until its echo is on the terminal
    key_p95: float
    pages: dict[str, float]  # by name


class Modem(msgspec.Struct):
    """One rate, over three hops."""

    rate: str
    tick_ms: float
    load: float  # of the machine, over the minute before
    plain: Interactive  # kernels forwarding
    tunnel: Interactive
    echo_ticks: float  # what `tunnel.key` has of ticks


@dataclass(frozen=True)
class Keys:
    """Where the keys of sshd and of whoever logs in are; nothing of it outlives the lab."""

    directory: Path

    @property
    def host(self) -> Path:
        """The key of sshd."""
        return self.directory / "host"

    @property
    def own(self) -> Path:
        """The key that logs in; its public half is all that sshd trusts."""
        return self.directory / "own"


def measure(rate: str, keys: int) -> Modem:
    """Measure a rate. OperatorError without root, or without sshd."""
    require_root()
    sshd = _require_sshd()
    load = os.getloadavg()[0]
    found: list[Interactive] = []

    def forwarded(lab: Live) -> None:
        shape(lab, MODEM_BUFFER)
        with _sshd(lab, sshd) as files:
            found.append(_measure(lab, files, keys))

    with live(rate, "raw", forwarded=forwarded) as lab:
        lab.up()
        with _sshd(lab, sshd) as files:
            tunnel = _measure(lab, files, keys)
        tick_ms = lab.schedule.tick_ns / 1e6
    return Modem(rate, tick_ms, load, found[0], tunnel, tunnel.key / tick_ms)


def _measure(lab: Live, files: Keys, keys: int) -> Interactive:
    echo = lab.ping(PINGS).median
    login_s, times = _type(lab, files, keys)
    times.sort()
    pages = {name: lab.get(f"http://{lab.web}/{name}", GETS) for name in PAGES}
    return Interactive(
        echo=echo,
        login_s=login_s,
        key=statistics.median(times) * 1000,
        key_p95=times[len(times) * 95 // 100] * 1000,
        pages=pages,
    )


def _require_sshd() -> str:
    found = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
    if found is None or shutil.which("ssh") is None:
        raise OperatorError("this benchmark needs ssh and sshd", "`apt install openssh-server`")
    return found


@contextmanager
def _sshd(lab: Live, sshd: str) -> Iterator[Keys]:
    """Let the Internet host be logged into, for a while."""
    files = Keys(lab.place.of(WEB))
    files.directory.mkdir(parents=True, exist_ok=True)
    for key in (files.host, files.own):
        key.unlink(missing_ok=True)
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    made = not PRIVILEGE_SEPARATION.exists()
    PRIVILEGE_SEPARATION.mkdir(exist_ok=True)
    options = {
        "ListenAddress": f"{lab.web}:{SSH_PORT}",
        "HostKey": files.host,
        "AuthorizedKeysFile": files.own.with_suffix(".pub"),
        "PidFile": "none",
        "StrictModes": "no",  # a lab's directory is nobody's home
        "UsePAM": "yes",  # or a root whose password is locked, as on most hosts with sudo, is not let in
    }
    command = [sshd, "-D", "-e", "-f", "/dev/null", *_options(options)]
    process = lab.popen(WEB, command, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "listening on" in line:
                break
        else:
            raise OperatorError("sshd does not start", "run it by hand to see why")
        yield files
    finally:
        process.terminate()
        process.communicate(timeout=COMMAND_SECONDS)
        if made:
            PRIVILEGE_SEPARATION.rmdir()


def _options(options: dict[str, object]) -> list[str]:
    return [word for name, value in options.items() for word in ("-o", f"{name}={value}")]


def _type(lab: Live, files: Keys, keys: int) -> tuple[float, list[float]]:
    """Log in and press keys, one at a time; return how long login and each echo took, s."""
    options = {
        "IdentityFile": files.own,
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
    }
    # The remote terminal echoes; `cat` only waits.
    program = f"echo {READY.decode()}; exec cat"
    command = ["ssh", "-F", "none", "-tt", *_options(options), f"root@{lab.web}", program]
    ours, theirs = pty.openpty()
    began = time.monotonic()
    process = lab.popen(CALLER, command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    try:
        said = b""
        while not said.endswith(READY + b"\r\n"):
            said += _read(ours)
        login_s = time.monotonic() - began
        shortest, longest = (ticks * lab.schedule.tick_ns / 1e9 for ticks in PAUSE_TICKS)
        pauses = [shortest + (longest - shortest) * n / keys for n in range(keys)]
        return login_s, [_press(ours, pause) for pause in pauses]
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(COMMAND_SECONDS)
        os.close(ours)


def _press(terminal: int, pause_s: float) -> float:
    time.sleep(pause_s)
    began = time.monotonic()
    os.write(terminal, KEY)
    while KEY not in _read(terminal):
        pass
    return time.monotonic() - began


def _read(terminal: int) -> bytes:
    ready, _, _ = select.select([terminal], (), (), COMMAND_SECONDS)
    if not ready:
        raise OperatorError("ssh says nothing more", "is the tunnel up?")
    try:
        return os.read(terminal, 4096)
    except OSError:  # nobody has its other end
        raise OperatorError("ssh has ended", "see what sshd says") from None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line of JSON for each rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rates", nargs="+", default=["28.8k", "modem"], metavar="RATE")
    parser.add_argument("--keys", type=int, default=KEYS)
    given = parser.parse_args(arguments)
    for rate in given.rates:
        print(msgspec.json.encode(measure(rate, given.keys)).decode(), flush=True)


if __name__ == "__main__":
    main()
