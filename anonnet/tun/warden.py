"""The warden: a small privileged process that `up` leaves behind, and that `down` ends.

It waits for the kernel to say that links, addresses, routes, rules or firewalls have changed, looks at
resolv.conf and at the clocks once a second, and puts right what no longer stands (`mend`). It is no part of
the daemon, so that it goes on while a dead daemon has left the host blocked; it parses nothing that a peer
or a user sent, and what the kernel tells it is only a reason to look.

It also owns a twin of the firewall, tables that nobody else can change or flush. They go when it goes; the
firewall itself stays. So a program that flushes the ruleset opens nothing, and neither does a warden that
is killed.

    python -m anonnet.tun.warden RUN_DIR       logs to RUN_DIR/warden.log
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import logging.handlers
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Final

from anonnet.errors import OperatorError
from anonnet.tun import firewall
from anonnet.tun.apply import signals_held
from anonnet.tun.journal import Journal
from anonnet.tun.mend import Memory, mend
from anonnet.tun.news import LINKS, drain, listen
from anonnet.tun.nft import Library
from anonnet.tun.upplan import OWNER, gather_facts, plan_up, saved_settings, wall

POLL_SECONDS: Final = 1.0
FULL_SECONDS: Final = 30.0  # so often it looks although nothing seems to have happened
SUSPENDED_SECONDS: Final = 1.0  # the clock that counts suspended time gained so much on the one that does not
BEGIN_SECONDS: Final = 30.0  # for the first look, beside whatever else a boot starts
END_SECONDS: Final = 5.0
LOCK_SECONDS: Final = 5.0
LOG_BYTES: Final = 200_000
# linux/rtnetlink.h: link, addresses, routes, rules of both versions; linux/netfilter/nfnetlink.h: nf_tables
_ROUTE_GROUPS: Final = LINKS | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18
_NFT_GROUP: Final = 1 << 6
_NETLINK_NETFILTER: Final = 12

_MODULE: Final = "anonnet.tun.warden"  # this one, which is "__main__" to itself

log: Final = logging.getLogger("anonnet.warden")


class Warden:
    """One host's warden; `look` once, or `run` until it is told to end or `down` has been here."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._library = Library()
        self._memory = Memory(self._library)
        self._twin = ""
        self._gained = suspended_seconds()
        self.looks = 0

    def run(self) -> None:
        """Look, wait for a reason to look, and so on."""
        listeners = [
            listen(socket.NETLINK_ROUTE, _ROUTE_GROUPS),
            listen(_NETLINK_NETFILTER, _NFT_GROUP),
        ]
        try:
            while True:
                for listener in listeners:
                    drain(listener)
                resolv_conf = self._resolv_conf()
                with signals_held():
                    goes_on = self._try()
                    self._write_pid()
                if not goes_on:
                    return
                self.wait(listeners, resolv_conf)
        finally:
            self._library.close()
            for listener in listeners:
                listener.close()

    def look(self) -> bool:
        """Put right what others have changed; return False when nothing is up any more."""
        settings = saved_settings(self._run_dir)
        if settings is None:
            return False
        pages = Journal(settings.run_dir, settings.state_dir, OWNER)
        with pages.locked():
            if not pages.steps:
                return True  # `up` has just begun, or `down` is about to end this process
            facts = gather_facts(settings)
            script = firewall.twin(wall(settings, facts))
            if script != self._twin:
                self._library.run(script)
                self._twin = script
            undone = mend(pages, plan_up(settings, facts), self._memory)
        for name in undone:
            log.warning("%s had been changed by somebody else: put right", name)
        return True

    def _write_pid(self) -> None:
        """Say who this is, and how often it has looked; by a rename, so that nobody reads half of it."""
        path = _pid_file(self._run_dir)
        fresh = path.with_suffix(".new")
        fresh.write_text(f"{os.getpid()} {self.looks}\n")
        fresh.rename(path)

    def _try(self) -> bool:
        self.looks += 1
        try:
            return self.look()
        except OperatorError as error:
            log.error("cannot put everything right, and will try again: %s", error)
        except Exception:
            log.exception("a bug; the firewall stays, and the next look may do better")
        return True

    def wait(self, listeners: list[socket.socket], resolv_conf: tuple[int, int, int] | None) -> None:
        """Return when there is a reason to look; `resolv_conf`: what was there at the last look."""
        until = time.monotonic() + FULL_SECONDS
        while time.monotonic() < until:
            if select.select(listeners, [], [], POLL_SECONDS)[0]:
                return
            gained = suspended_seconds()
            if abs(gained - self._gained) > SUSPENDED_SECONDS:
                log.info("back from %.0f s of suspension", gained - self._gained)
                self._gained = gained
                return
            if self._resolv_conf() != resolv_conf:
                return

    def _resolv_conf(self) -> tuple[int, int, int] | None:
        """Return what tells one resolv.conf from another without reading it; None if there is none."""
        with contextlib.suppress(OSError, OperatorError):
            settings = saved_settings(self._run_dir)
            if settings is not None:
                status = settings.resolv_conf.stat()
                return status.st_ino, status.st_mtime_ns, status.st_size
        return None


def restart(run_dir: Path) -> None:
    """Start a warden, in place of one that runs; return when it has looked for the first time."""
    stop(run_dir)
    _pid_file(run_dir).unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE, str(run_dir)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    deadline = time.monotonic() + BEGIN_SECONDS
    while not _pid(run_dir):
        if process.poll() is not None or time.monotonic() > deadline:
            hint = f"see {run_dir / 'warden.log'}; until then nobody puts right what other programs change"
            raise OperatorError("the warden does not start", hint)
        time.sleep(0.02)


def stop(run_dir: Path) -> None:
    """End the warden if one runs, and wait until it has gone, and with it what it owns."""
    pid = _pid(run_dir)
    deadline = time.monotonic() + END_SECONDS
    while pid and _runs(run_dir):
        number = signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        time.sleep(0.02)


def runs(run_dir: Path) -> bool:
    """Return whether a warden watches this host."""
    return bool(_pid(run_dir))


def main() -> None:
    """Watch until told to end."""
    run_dir = Path(sys.argv[1])
    handler = logging.handlers.RotatingFileHandler(run_dir / "warden.log", maxBytes=LOG_BYTES, backupCount=1)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", handlers=[handler]
    )
    if not _lock(run_dir):
        log.error("another warden runs")
        sys.exit(1)

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        Warden(run_dir).run()
    except OperatorError as error:
        log.error("%s", error)
        sys.exit(1)
    finally:
        _pid_file(run_dir).unlink(missing_ok=True)


def _lock(run_dir: Path) -> bool:
    """Take the lock that says that this warden lives, until this process ends."""
    lock = os.open(run_dir / "warden.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)  # who asks whether a warden runs holds it for a moment
        else:
            return True


def _pid_file(run_dir: Path) -> Path:
    return run_dir / "warden.pid"


def _pid(run_dir: Path) -> int:
    """Return the warden's process id, 0 without one. The lock says whether it lives, the file who it is."""
    if not _runs(run_dir):
        return 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(_pid_file(run_dir).read_text().split()[0])
    return 0


def _runs(run_dir: Path) -> bool:
    try:
        lock = os.open(run_dir / "warden.lock", os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return _seen(run_dir)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _seen(run_dir: Path) -> bool:
    """Return whether the process that the file names is a warden: for users who may not ask the lock."""
    with contextlib.suppress(OSError, IndexError):
        pid = _pid_file(run_dir).read_text().split()[0]
        return _MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return False


def suspended_seconds() -> float:
    """Return how many seconds this machine has been suspended since it started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


if __name__ == "__main__":
    main()
