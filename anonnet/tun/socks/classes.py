"""Which class of packets each user of the proxy has: users share neither class nor, by it, circuit."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator

from anonnet.proto.isolation import SOCKS_CLASSES
from anonnet.wire.socks import Credentials


class Busy(Exception):
    """As many users as there are classes have connections open."""


class Classes:
    """Users by the user name and password that they gave; the longest unused class goes to a new one.

    A user keeps its class for as long as it has connections, and after that until another needs it.
    """

    def __init__(self) -> None:
        self._class_of: OrderedDict[Credentials, int] = OrderedDict()
        self._connections = dict.fromkeys(SOCKS_CLASSES, 0)

    @contextlib.contextmanager
    def of(self, user: Credentials) -> Iterator[int]:
        """Yield a user's class for one connection; raise Busy when none is left."""
        class_ = self._class_of.get(user)
        if class_ is None:
            class_ = self._free()
            self._class_of[user] = class_
        self._connections[class_] += 1
        try:
            yield class_
        finally:
            self._connections[class_] -= 1
            self._class_of.move_to_end(user)

    def _free(self) -> int:
        fresh = self._connections.keys() - self._class_of.values()
        if fresh:
            return min(fresh)
        for user, class_ in self._class_of.items():
            if not self._connections[class_]:
                del self._class_of[user]
                return class_
        raise Busy
