"""The control process: asyncio, no privileges. It is what parses peers' messages and users' requests."""

from __future__ import annotations

import asyncio
import signal
import sys

from anonnet.node import vitals
from anonnet.node.control import Control, Inherited
from anonnet.node.privileges import become, settle
from anonnet.node.service import Service


def run(given: Inherited) -> int:
    """Run until told to stop, or until the data plane ends; return the exit code."""
    become(given.user)
    return asyncio.run(_run(given))


async def _run(given: Inherited) -> int:
    loop = asyncio.get_running_loop()
    control = Control(given, loop)
    service = Service(control, given.listener)
    settle()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, control.stopping.set)
    if given.debug and sys.stdin is not None and sys.stdin.isatty():
        loop.add_signal_handler(signal.SIGTSTP, service.debug_on_terminal)
    else:
        signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    serving = asyncio.create_task(service.serve())
    reporting = asyncio.create_task(vitals.report(control, given.notifier, serving))
    await control.stopping.wait()
    # Once is enough: the keeper says it again when the data plane has ended, and the loop may be half closed.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    reporting.cancel()
    given.notifier.say("STOPPING=1")
    serving.cancel()
    await control.stop()
    return 0
