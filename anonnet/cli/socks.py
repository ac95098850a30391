"""`anonnet-tun socks`: a SOCKS 5 proxy into the network, for single programs; with or without `up`.

root, this process   makes the device (unless the host is up), waits, undoes it all
  '- child           the daemon's user: tun.socks.listener
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import click

from anonnet.cli import Seconds, config_option
from anonnet.cli.host import in_place
from anonnet.cli.probe import wait_for_echo
from anonnet.errors import OperatorError
from anonnet.node import api
from anonnet.node.client import Client
from anonnet.node.config import check_listen, load
from anonnet.node.notify import Notifier
from anonnet.node.peers import find_exit, read_peers, require_link
from anonnet.node.privileges import User, become, die_with_parent, find_user
from anonnet.node.sections import Config
from anonnet.proto.isolation import MAX_CIRCUITS, Isolation
from anonnet.tun.apply import apply_all, quiet
from anonnet.tun.commands import require_net_admin
from anonnet.tun.device import tun_exists
from anonnet.tun.socks.listener import Limits, Listener
from anonnet.tun.socks.plan import OWNER, SocksSettings, announced, journal, plan_socks
from anonnet.tun.socks.through import Tunnel

GRACE: Final = 5.0  # seconds for the daemon's answer beyond the time it was given
FILES_EACH: Final = 4  # open for a connection at the most: both its ends, and two sockets more for datagrams
FILES_MORE: Final = 64


@click.command()
@config_option
@click.option("--listen", help="Address and port.  [default: socks.listen of the configuration]")
@click.option("--circuits", type=click.IntRange(1, MAX_CIRCUITS), help="Circuits at once, unless up.")
@click.option("--exit", "exit_", help="Id or name of the exit, or auto; unless up.")
@click.option("--wait", default=60.0, show_default=True, type=Seconds(1), help="Seconds to try for.")
@click.option("-v", "--verbose", is_flag=True, help="Show every change to this host.")
def socks(
    config_path: Path, listen: str | None, circuits: int | None, exit_: str | None, wait: float, verbose: bool
) -> None:
    """Run a SOCKS 5 proxy into the network until ^C, SIGTERM, or the tunnel's end.

    Programs that use it reach the network and resolve names there; all others go on as before. With several
    circuits, each user name and password has its own. Where the host is up, its circuits are used.
    """
    config = load(config_path)
    peers = read_peers(config, None, str(config_path))
    require_link(peers, str(config_path))
    require_net_admin()
    try:
        where = check_listen(config.socks, listen or config.socks.listen)
    except ValueError as error:
        raise OperatorError(f"cannot listen at {listen}", str(error)) from None
    user = find_user(config.node.user)
    exit_id = find_exit(peers, exit_)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # undo then, too
    notifier = Notifier.take(os.environ, os.getpid())
    number = circuits or config.socks.circuits
    by = Isolation.USER if number > 1 else Isolation.OFF
    request = api.Up(exit=exit_id, wait=wait, circuits=number, isolate=by.value)
    shown = f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"
    with _bound(where) as sock, announced(config.node.run_dir, shown):
        echo = click.echo if verbose else quiet
        with _tunnel(config, user, request, echo) as tunnel:
            sock.listen()  # who comes from now on is heard
            click.echo(f"SOCKS 5 at {shown}, through {tunnel.device}")
            notifier.say("READY=1", f"STATUS=at {shown}, through {tunnel.device}")
            _serve(sock, tunnel, config, user)


def _bound(where: tuple[str, int]) -> socket.socket:
    """Return a socket that will listen there; OperatorError if the address cannot be had."""
    sock = socket.socket(socket.AF_INET6 if ":" in where[0] else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
    except OSError as error:
        sock.close()
        hint = "choose another: --listen, or socks.listen in the configuration"
        raise OperatorError(f"cannot listen at {where[0]} port {where[1]}: {error.strerror}", hint) from None
    return sock


@contextlib.contextmanager
def _tunnel(config: Config, user: User, request: api.Up, echo: Callable[[str], None]) -> Iterator[Tunnel]:
    """The device of `up`, else one of our own for as long as the block runs."""
    client = Client(config.node.run_dir)
    up = client.call(api.GetStatus(), api.Status).state == "up"
    firewall, tunnel = in_place(config)
    if up and tunnel:
        yield Tunnel.find(config.caller.tun)
        return
    if firewall:
        raise OperatorError("this host is blocked, or not yet up", "begin with: anonnet-tun up")
    settings = SocksSettings(
        tun=config.socks.tun,
        caller_tun=config.caller.tun,
        mark=config.transport.mark,
        user=user.uid,
        classes=request.isolate == Isolation.USER.value,
        run_dir=config.node.run_dir,
        state_dir=config.node.state_dir,
    )
    pages = journal(settings.run_dir, settings.state_dir)
    deadline = time.monotonic() + request.wait
    session = apply_all(pages, lambda: plan_socks(settings), echo)
    try:
        assert session.tun is not None
        click.echo("waiting for a circuit")
        client.call(request, api.Status, fds=(session.tun.fd,), timeout=request.wait + GRACE)
        session.tun.close()  # the daemon's own copy keeps the device, and takes it along when it dies
        wait_for_echo(settings.tun, deadline - time.monotonic())
        yield Tunnel.find(settings.tun)
    finally:
        with contextlib.suppress(OperatorError):
            if tun_exists(settings.tun, OWNER):  # else the daemon has died, or `up` has taken over
                client.call(api.Down(), api.Status)
        session.undo()


def _serve(sock: socket.socket, tunnel: Tunnel, config: Config, user: User) -> None:
    """Let a child without privileges serve until the tunnel goes, or ^C; OperatorError, KeyboardInterrupt."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            die_with_parent(signal.SIGKILL)
            _make_room(config.socks.connections)
            become(user)
            networks = tuple(map(ip_network, config.socks.open_to))
            asyncio.run(Listener(tunnel, Limits(networks, config.socks.connections)).serve(sock))
            code = 0
        except KeyboardInterrupt:
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    sock.close()
    try:
        _, status = os.waitpid(child, 0)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if os.waitstatus_to_exitcode(status) == 0:
        raise OperatorError("the tunnel has gone, and the proxy with it", "see `anonnet-tun status`")
    raise OperatorError("the proxy has died", "its last words are above; please report them")


def _make_room(connections: int) -> None:
    """Let this process open as many files as its connections may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_EACH * connections + FILES_MORE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
