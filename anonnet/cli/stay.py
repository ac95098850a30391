"""`anonnet-tun stay`: `up` as a service, from boot on, with the network coming and going.

It ends at SIGTERM and leaves this host as it is; `down` ends it first, and then opens the host.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from anonnet.cli import config_option
from anonnet.errors import OperatorError
from anonnet.node.config import load
from anonnet.node.sections import Config

EVERY_SECONDS: Final = 1.0  # between two looks
AGAIN_SECONDS: Final = 5.0  # between two tries
END_SECONDS: Final = 20.0  # for one that must undo what it has begun
_LOCK: Final = "stay.lock"


@click.command(context_settings={"ignore_unknown_options": True})
@config_option
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def stay(config_path: Path, options: tuple[str, ...]) -> None:
    """Block this host, bring it up, and do so again whenever that is needed, until `down`.

    OPTIONS are those of `up`. For the service that has this host up from boot on: whatever fails, nothing
    leaves outside of the tunnel, and the trying goes on.
    """
    from anonnet.cli.lockdown import block  # noqa: PLC0415  `down` imports this module, and is quick
    from anonnet.cli.up import require_caller  # noqa: PLC0415
    from anonnet.node.notify import Notifier  # noqa: PLC0415

    config = load(config_path)
    require_caller(config, str(config_path))
    notifier = Notifier.take(os.environ, os.getpid())
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt, click.Abort), _alone(config.node.run_dir):
        block(config, str(config_path), warned=True)
        notifier.say("READY=1", "STATUS=blocked")
        while True:
            state, trouble = _look(config, ["-c", str(config_path), *options])
            notifier.say(f"STATUS={state}" + (f": {trouble}" if trouble else ""))
            time.sleep(AGAIN_SECONDS if trouble else EVERY_SECONDS)


def _look(config: Config, arguments: list[str]) -> tuple[str, str]:
    """Bring this host up unless it is, or the node is about to; return its state, and why it is not up."""
    from anonnet.cli.host import in_place  # noqa: PLC0415  as above
    from anonnet.cli.up import up  # noqa: PLC0415
    from anonnet.node import api  # noqa: PLC0415
    from anonnet.node.client import Client  # noqa: PLC0415

    try:
        state = Client(config.node.run_dir).call(api.GetStatus(), api.Status).state
        if state != "down" and all(in_place(config)):
            return state, ""
        up.main(arguments, standalone_mode=False)
    except OperatorError as error:
        print(f"anonnet-tun: {error}", file=sys.stderr, flush=True)
        return "blocked", str(error)
    return "up", ""


@contextlib.contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Hold the lock that says who stays up, with the process id in it."""
    with _lock_file(run_dir) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperatorError("another `stay` is running", "end it with `anonnet-tun down`") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        yield


def end(run_dir: Path) -> None:
    """End the `stay` that runs, if any, and wait until it has; this host stays as it is."""
    # Who may not open it may not undo `up` either, and will be told so.
    with contextlib.suppress(FileNotFoundError, PermissionError), _lock_file(run_dir, create=False) as lock:
        deadline = time.monotonic() + END_SECONDS
        asked = False
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            who = os.pread(lock, 20, 0).strip()
            if who and not asked:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(who), signal.SIGTERM)
                asked = True
            if time.monotonic() > deadline:
                raise OperatorError("`anonnet-tun stay` does not end", f"kill process {who.decode()}")
            time.sleep(0.02)


@contextlib.contextmanager
def _lock_file(run_dir: Path, *, create: bool = True) -> Iterator[int]:
    if create:
        run_dir.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    lock = os.open(run_dir / _LOCK, flags, 0o600)
    try:
        yield lock
    finally:
        os.close(lock)
