"""The privileged part: opens devices and sockets, forks control and data plane, keeps what undo needs.

It parses nothing that a peer or a user sent. When either child ends, so does the other, and what the exit
changed on this host is taken back. What `up` changed is not ours to undo: the firewall stays.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from anonnet import native
from anonnet.crypto.keys import load_keys
from anonnet.crypto.suite import load_suite
from anonnet.errors import AnonNetError, OperatorError
from anonnet.net.sockets import Listening, open_sockets
from anonnet.node import capacity, changes, dataplane, pipe
from anonnet.node.api import SOCKET_NAME
from anonnet.node.notify import Notifier
from anonnet.node.peers import read_peers, require_link
from anonnet.node.privileges import User, die_with_parent, find_user, require_cling, settle
from anonnet.node.reach import link_peer
from anonnet.node.sections import Config
from anonnet.proto.engine import choose
from anonnet.proto.plane import Plane

STOP_SECONDS: Final = 5  # children get so long to end by themselves

log: Final = logging.getLogger("anonnet")


def run(config: Config, debug: bool, verbose: bool, plane: type[Plane] = Plane) -> int:
    """Run the node until it is told to stop; return the exit code. Raises OperatorError before it starts."""
    logging.basicConfig(
        level=logging.DEBUG if debug else config.node.log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr,
    )  # fmt: skip
    notifier = Notifier.take(os.environ, os.getpid())
    suite = load_suite(config.node.suite)
    engine = choose(suite, config.data_plane.wants_native)
    keys = load_keys(config.node.state_dir)
    peers = read_peers(config, keys.node_id, "configuration")
    require_link(peers, "configuration")
    user = find_user(config.node.user) if os.geteuid() == 0 else None
    _require_free(config.node.run_dir)
    require_cling(config.data_plane.realtime_priority, config.data_plane.lock_memory)
    guard_dir = _own_dir(config.node.state_dir / "control", user)
    transport = config.transport
    sockets = open_sockets(Listening(
        transport.raw, transport.udp, transport.ip_protocol, transport.udp_port, transport.mark,
        str(transport.bind4), str(transport.bind6),
    ))  # fmt: skip
    # Complain now, with the terminal at hand.
    links = [link_peer(peer, frozenset(sockets)) for peer in peers if peer.link]
    threads = capacity.require(links, suite, engine, config.data_plane.wants_threads)
    listener = _listen(config.node.run_dir, user)
    changed = False
    try:
        tun = changes.change(config, verbose)
        changed = True
        for_control, for_plane = pipe.pair()
        if tun is not None:
            pipe.ReportPipe(for_control).attach("exit", tun)

        # Each child closes the other's end, or neither would see that the other has ended.
        def data_plane() -> None:
            for_control.close()
            dataplane.run(config, suite, engine, threads, sockets, for_plane, user, plane)

        def control_plane() -> int:
            # asyncio does without TLS if it is not to be had, and is 2 MB smaller.
            sys.modules["ssl"] = None  # type: ignore[assignment]
            # Loaded here: the data plane locks all that it has into memory, and has no use for this.
            from anonnet.node import control, controlplane  # noqa: PLC0415

            for_plane.close()
            given = control.Inherited(
                config, suite, keys, peers, frozenset(sockets), for_control, listener, guard_dir, user, debug,
                notifier,
            )  # fmt: skip
            return controlplane.run(given)

        # Said now, when nothing can refuse any more: a refusal is one line.
        for warning in config.warnings:
            print(f"anonnet-tun: warning: {warning}", file=sys.stderr)
        kind = f"{engine.name}, {threads} threads" if threads > 1 else engine.name
        log.info("data plane: %s%s", kind, f" ({native.trouble})" if native.trouble else "")
        settle()
        children = {_fork("data plane", data_plane): "data plane", _fork("control", control_plane): "control"}
        for_control.close()
        for_plane.close()
        for sock in sockets.values():
            sock.close()
        return _watch(children)
    finally:
        with contextlib.suppress(OSError):
            (config.node.run_dir / SOCKET_NAME).unlink()
        if changed:
            changes.undo(config)


def _own_dir(path: Path, user: User | None) -> Path:
    """A directory that the unprivileged children may write in. What is theirs already needs no privilege."""
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
        if user is not None:
            _set_mode(path.parent, path.parent.stat().st_mode | 0o011)  # the way in, not a view
            for entry in (path, *path.iterdir()):
                found = entry.stat()
                if (found.st_uid, found.st_gid) != (user.uid, user.gid):
                    os.chown(entry, user.uid, user.gid)
    except OSError as error:
        raise OperatorError(f"cannot prepare {path}", error.strerror or str(error)) from None
    return path


def _set_mode(path: Path, mode: int) -> None:
    if path.stat().st_mode != mode:
        path.chmod(mode)


def _require_free(run_dir: Path) -> None:
    """Refuse to be a second daemon of the same configuration, before its sockets turn out to be taken."""
    path = run_dir / SOCKET_NAME
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.connect(str(path))
        raise OperatorError(f"a daemon already listens at {path}", "stop it, or use another node.run_dir")


def _listen(run_dir: Path, user: User | None) -> socket.socket:
    """Open the control socket."""
    path = run_dir / SOCKET_NAME
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o660)
        if user is not None and path.stat().st_gid != user.gid:
            os.chown(path, 0, user.gid)
        listener.listen(16)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OperatorError(f"cannot make the control socket {path}", error.strerror or str(error)) from None
    return listener


def _fork(name: str, work: Callable[[], object]) -> int:
    """Start a child; it never returns here."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent(signal.SIGKILL)
        result = work()
        code = result if isinstance(result, int) else 0
    except AnonNetError as error:
        print(f"anonnet-tun: {error}", file=sys.stderr)
    except BaseException:
        log.exception("%s crashed", name)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _watch(children: dict[int, str]) -> int:
    """Wait until both children have ended; the end of one is the end of both."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for pid, name in children.items():
            if name == "control":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def kill(_number: int, _frame: FrameType | None) -> None:
        for pid in children:
            os.kill(pid, signal.SIGKILL)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, kill)
    worst = 0
    while children:
        pid, status = os.waitpid(-1, 0)
        name = children.pop(pid, "")
        code = os.waitstatus_to_exitcode(status)
        if code:
            log.error("%s ended with %d", name, code)
            worst = 1
        stop(0, None)
        signal.alarm(STOP_SECONDS)  # also when the data plane ends first and control must follow
    signal.alarm(0)
    return worst
