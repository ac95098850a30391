"""What the node changes on its host: link datagrams are not tracked; an exit has its TUN, NAT and policy.

A process of its own makes the changes and ends. What it takes for that, netlink's Python code above all,
would else be in the memory of all three processes (12 MiB of each at an exit) for as long as they live.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from functools import partial
from typing import Final

import msgspec

from anonnet.errors import OperatorError
from anonnet.node.sections import Config

JOURNAL: Final = "node"
MAX_ANSWER: Final = 1 << 16  # bytes

log: Final = logging.getLogger("anonnet")


def change(config: Config, verbose: bool) -> int | None:
    """Make the changes, all or none; return the descriptor of the exit's TUN, if this is an exit.

    ^C and SIGTERM wait until it is over: the process that does it has to finish, or to undo what it did.
    """
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    with ours:
        pid = os.fork()
        if not pid:
            _answer(config, verbose, its)
        its.close()
        try:
            answer, descriptors, _, _ = socket.recv_fds(ours, MAX_ANSWER, 1)
            os.waitpid(pid, 0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
    if not answer:
        hint = "see the log; `anonnet-tun cleanup` undoes what it began"
        raise OperatorError("the process that changes this host crashed", hint)
    if failure := msgspec.json.decode(answer):
        raise OperatorError(*failure)
    return descriptors[0] if descriptors else None


def undo(config: Config) -> None:
    """Take the changes back."""
    from anonnet.tun.apply import Session  # noqa: PLC0415  see above
    from anonnet.tun.journal import Journal  # noqa: PLC0415

    Session(Journal(config.node.run_dir, config.node.state_dir, JOURNAL)).undo()


def _answer(config: Config, verbose: bool, end: socket.socket) -> None:
    """Make the changes, and say what came of it: a failure or nothing, and the TUN. Does not return."""
    code = 1
    try:
        tun = _apply(config, verbose)
        socket.send_fds(end, [b"null"], [] if tun is None else [tun])
        code = 0
    except OperatorError as error:
        end.send(msgspec.json.encode((error.what, error.hint)))
    except BaseException:
        log.exception("changing the host failed")
    finally:
        os._exit(code)


def _apply(config: Config, verbose: bool) -> int | None:
    from anonnet.tun.apply import apply_all  # noqa: PLC0415
    from anonnet.tun.exit import gather_exit_facts, plan_exit  # noqa: PLC0415
    from anonnet.tun.exit_rules import DENIED, ExitSettings  # noqa: PLC0415
    from anonnet.tun.firewall import link_table  # noqa: PLC0415
    from anonnet.tun.journal import Journal  # noqa: PLC0415
    from anonnet.tun.plan import Step  # noqa: PLC0415

    transport, exit_ = config.transport, config.exit

    def plan() -> list[Step]:
        protocols = (transport.ip_protocol,) if transport.raw else ()
        ports = (transport.udp_port,) if transport.udp else ()
        steps = [link_table(protocols, ports, config.caller.tun, exit_.tun)]
        if exit_.enabled:
            settings = ExitSettings(
                tun=exit_.tun, pool4=exit_.pool4, pool6=exit_.pool6,
                resolvers=() if exit_.resolver == "auto" else (exit_.resolver,),
                allow=exit_.allow, deny=(*DENIED, *exit_.deny),
                connections_per_circuit=exit_.connections_per_circuit,
                new_per_second=exit_.new_connections_per_second, link_protocol=transport.ip_protocol,
            )  # fmt: skip
            steps += plan_exit(settings, gather_exit_facts(settings))
        return steps

    journal = Journal(config.node.run_dir, config.node.state_dir, JOURNAL)
    echo = partial(print, flush=True) if verbose else partial(log.debug, "%s")
    tun = apply_all(journal, plan, echo).tun
    return None if tun is None else tun.fd
