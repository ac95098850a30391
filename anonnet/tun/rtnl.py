"""pyroute2, loaded when it is first used: it takes 12 MB, and a daemon that is no exit never needs it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pyroute2 import IPRoute
    from pyroute2.netlink import nlmsg
    from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["IPRoute", "NetlinkError", "nlmsg"]

_MODULES: Final = {
    "IPRoute": "pyroute2",
    "NetlinkError": "pyroute2.netlink.exceptions",
    "nlmsg": "pyroute2.netlink",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(name)
    return getattr(import_module(_MODULES[name]), name)
