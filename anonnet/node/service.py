"""The control socket's server: asks the core what commands want to know, and tells it what they want done."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

import msgspec

from anonnet.errors import OperatorError
from anonnet.node import api, report
from anonnet.node.control import Control
from anonnet.node.peers import parse_exclusion
from anonnet.node.probe import Probe, debugging_runs
from anonnet.proto.isolation import Isolation, check_isolation
from anonnet.proto.keepers import Wanted
from anonnet.proto.redundancy import parse_redundancy

MAX_FDS: Final = 4
REQUEST_SECONDS: Final = 10  # whoever connects and says nothing is let go
_UCRED: Final = struct.Struct("3i")


class Service:
    """Serves the control socket. Root may ask anything; others who may connect, only questions."""

    def __init__(self, control: Control, listener: socket.socket) -> None:
        self._control = control
        self._listener = listener
        self._tasks: set[asyncio.Task[None]] = set()
        self._attached = False

    async def serve(self) -> None:
        """Take connections until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            self._start(self._converse(connection))

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, connection: socket.socket) -> None:
        """One request, its progress and its answer."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        with connection:
            fds: list[int] = []
            try:
                line = await _receive_line(loop, connection, fds)
                request = api.decode_request(line)

                def say(text: str) -> None:
                    with contextlib.suppress(OSError):
                        connection.send(api.encode(api.Progress(text)))

                answer = await self._until_gone(connection, self._answer(request, connection, fds, say))
                response: api.Response = api.done(answer)
            except OperatorError as error:
                response = api.Failed(error.what, error.hint)
            except ConnectionError:
                return
            finally:
                for fd in fds:
                    with contextlib.suppress(OSError):
                        os.close(fd)
            with contextlib.suppress(OSError):
                await loop.sock_sendall(connection, api.encode(response))

    async def _until_gone(self, connection: socket.socket, answering: object) -> msgspec.Struct:
        """Wait for the answer, or give the request up when its asker closes."""
        loop = asyncio.get_running_loop()
        work: asyncio.Task[msgspec.Struct] = asyncio.ensure_future(answering)  # type: ignore[call-overload]
        gone = asyncio.ensure_future(loop.sock_recv(connection, 1))
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            gone.cancel()
            return work.result()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
        raise ConnectionError("asker has gone")

    async def _answer(self, request: api.Request, connection: socket.socket, fds: list[int],
                      say: Callable[[str], None]) -> msgspec.Struct:  # fmt: skip
        control = self._control
        if isinstance(request, api.Up | api.Down | api.Stop | api.Debug | api.Ping):
            _require_root(connection)
        match request:
            case api.GetStatus():
                return report.status(control)
            case api.GetPeers():
                return report.peers(control)
            case api.GetCircuits():
                return api.Circuits(report.circuits(control))
            case api.GetInvite():
                return report.invite(control)
            case api.Up():
                return await self._up(request, fds, say)
            case api.Down():
                self._down()
                return report.status(control)
            case api.Ping(node, count):
                probe = Probe(control, say)
                return await probe.ping(report.find(control, node), count)
            case api.Debug(runs):
                return await debugging_runs(control, runs, say)
            case api.Stop():
                control.stopping.set()
                return report.status(control)

    # -- up and down ------------------------------------------------------------------------------

    async def _up(self, request: api.Up, fds: list[int], say: Callable[[str], None]) -> api.Status:
        control, keepers = self._control, self._control.node.keepers
        if fds:
            control.attach("caller", fds.pop(0))
            self._attached = True
        elif not self._attached:
            raise OperatorError("no TUN device came with the request", "use `anonnet-tun up`")
        wanted = self._wanted(request)
        before = keepers.wanted
        keepers.want(wanted, control.now())
        keepers.on_step(say)
        control.settle()
        try:
            async with asyncio.timeout(request.wait):
                while not keepers.complete:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            trouble = keepers.trouble or "no answer from the network"
            self._give_up(before)
            hint = "see `anonnet-tun status` and `anonnet-tun peers`"
            what = "circuit" if wanted.circuits == 1 else f"{wanted.circuits} circuits"
            raise OperatorError(f"no {what} within {request.wait:g} s: {trouble}", hint) from None
        except asyncio.CancelledError:
            self._give_up(before)
            raise
        finally:
            keepers.on_step(lambda text: None)
        return report.status(control)

    def _wanted(self, request: api.Up) -> Wanted:
        """What a request asks for; what it leaves open is as the configuration says."""
        caller = self._control.config.caller
        exit_ = request.exit or caller.exit
        distinct = caller.distinct_exits if request.distinct_exits is None else request.distinct_exits
        wanted = Wanted(
            None if exit_ == "auto" else report.find(self._control, exit_),
            request.hops or caller.hops,
            request.routes or caller.routes,
            parse_redundancy(request.redundancy or caller.redundancy),
            request.circuits or caller.circuits,
            Isolation(request.isolate or caller.isolate),
            distinct,
            parse_exclusion([*caller.exclude, *request.exclude]),
        )
        check_isolation(wanted.isolate, wanted.circuits)
        if wanted.exit_id is not None and wanted.circuits > 1 and wanted.distinct_exits is True:
            hint = 'set distinct_exits to "auto", or exit to auto'
            raise OperatorError("one exit was asked for, and one for each circuit", hint)
        if wanted.exit_id is not None and wanted.excluded.covers(self._control.node.nodes[wanted.exit_id]):
            raise OperatorError("the exit asked for is excluded", "see [caller] exclude, and --exclude")
        return wanted

    def _give_up(self, before: Wanted | None) -> None:
        """Go back to what there was before a request that could not be met."""
        if before is None:
            self._down()
        else:
            self._control.node.keepers.want(before, self._control.now())
            self._control.settle()

    def _down(self) -> None:
        self._control.node.keepers.drop()
        self._control.detach("caller")
        self._attached = False
        self._control.settle()

    # -- ^Z ---------------------------------------------------------------------------------------

    def debug_on_terminal(self) -> None:
        """Answer ^Z as in 2003: a debugging run, every step of it on the terminal."""
        self._start(self._debug())

    async def _debug(self) -> None:
        print("debugging run", flush=True)
        try:
            await Probe(self._control, lambda text: print(f"  {text}", flush=True)).debugging_run()
        except OperatorError as error:
            print(f"debugging run failed: {error}", flush=True)
        else:
            print("debugging run ended well", flush=True)


async def _receive_line(loop: asyncio.AbstractEventLoop, connection: socket.socket, fds: list[int]) -> bytes:
    """Read one line, and the descriptors that come with it."""
    buffer = b""
    while b"\n" not in buffer:
        readable = asyncio.Event()
        loop.add_reader(connection, readable.set)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await readable.wait()
        except TimeoutError:
            raise ConnectionError("no request") from None
        finally:
            loop.remove_reader(connection)
        data, received, _, _ = socket.recv_fds(connection, 65_536, MAX_FDS)
        fds += received
        buffer += data
        if not data or len(buffer) > api.MAX_LINE:
            raise ConnectionError("no request")
    return buffer.split(b"\n", 1)[0]


def _require_root(connection: socket.socket) -> None:
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(raw)
    if uid != 0:
        raise OperatorError("only root may ask that", "run this with sudo")
