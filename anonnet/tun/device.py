"""The TUN device (Linux, Documentation/networking/tuntap.rst), through python-pytun and netlink."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytun

from anonnet.errors import OperatorError
from anonnet.tun import rtnl
from anonnet.tun.actions import CreateTun

_ADDR_GEN_MODE = "/proc/sys/net/ipv6/conf/{}/addr_gen_mode"
_ALIAS = "anonnet-tun {}"  # names the owner: without it, a device is somebody else's and never deleted
_ADDR_GEN_NONE = "1"  # IN6_ADDR_GEN_MODE_NONE, linux/if_link.h
_TUNSETOFFLOAD = 0x400454D0  # linux/if_tun.h
_OFFLOADS = 0x01 | 0x02 | 0x04  # TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6: what net.tunfile understands
# Packets that may wait for the data plane, which looks once a tick. Who finds out how fast he may send tries
# three times the rate: of the kernel's usual 500 that is 10 ms at 250 Mbit/s. The rest would be lost before
# our own queue could choose what goes.
_QUEUE: Final = 4096


@dataclass(frozen=True, slots=True)
class Tun:
    """An open TUN device. It lives as long as anybody, in any process, holds a copy of `fd` open."""

    name: str
    fd: int  # non-blocking; each read and write is a virtio_net_hdr and an IP packet (net.tunfile)

    def close(self) -> None:
        """Close this process's descriptor, once; the device goes with the last one."""
        with contextlib.suppress(OSError):
            os.close(self.fd)


def create_tun(action: CreateTun) -> Tun:
    """Create the device, set MTU and addresses, bring it up.

    Raises OperatorError when the name is taken, TUN devices are not to be had, or rights are missing.
    """
    tun = Tun(action.name, _open(action.name))
    try:
        with contextlib.suppress(OSError):  # no IPv6 here
            # No link-local address: the kernel would send router solicitations into the circuit from it.
            Path(_ADDR_GEN_MODE.format(action.name)).write_text(_ADDR_GEN_NONE)
        _configure(action)
    except BaseException:
        tun.close()
        raise
    return tun


def delete_tun(name: str, owner: str) -> None:
    """Delete a device that `create_tun` made for `owner`, whoever holds it; do nothing if there is none.

    One of ours that a crash left untagged needs no deleting: it went with its only holder.
    """
    with rtnl.IPRoute() as netlink:
        index = _owned(netlink, name, owner)
        if index is not None:
            with contextlib.suppress(rtnl.NetlinkError):  # went by itself meanwhile
                netlink.link("del", index=index)


def tun_exists(name: str, owner: str) -> bool:
    """Return whether a device that `create_tun` made for `owner` is there."""
    with rtnl.IPRoute() as netlink:
        return _owned(netlink, name, owner) is not None


def device_exists(name: str) -> bool:
    """Return whether a network device of this name exists."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _owned(netlink: rtnl.IPRoute, name: str, owner: str) -> int | None:
    """Return the index of the device if it bears the owner's tag."""
    for link in netlink.get_links():
        if link.get_attr("IFLA_IFNAME") == name and link.get_attr("IFLA_IFALIAS") == _ALIAS.format(owner):
            return int(link["index"])
    return None


def _open(name: str) -> int:
    if device_exists(name):
        raise _occupied(name)
    try:
        # EXCL: never attach to a device that appeared since the look above.
        flags = pytun.IFF_TUN | pytun.IFF_NO_PI | pytun.IFF_TUN_EXCL | pytun.IFF_VNET_HDR
        device = pytun.TunTapDevice(name=name, flags=flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _occupied(name) from error
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            hint = "load the driver (modprobe tun); in a container, ask its host"
            raise OperatorError("no /dev/net/tun", hint) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise OperatorError("may not open a TUN device (no CAP_NET_ADMIN)", "run it with sudo") from error
        hint = "a name has at most 15 characters, without / or spaces"
        raise OperatorError(f"cannot create the TUN device {name}: {error}", hint) from error
    try:
        fcntl.ioctl(device.fileno(), _TUNSETOFFLOAD, _OFFLOADS)
        fd = os.dup(device.fileno())  # pytun closes its own when the object goes
    finally:
        device.close()
    os.set_blocking(fd, False)
    return fd


def _occupied(name: str) -> OperatorError:
    hint = f"choose another name, or remove it (ip link del {name})"
    return OperatorError(f"TUN name {name} is occupied by another device", hint)


def _configure(action: CreateTun) -> None:
    try:
        with rtnl.IPRoute() as netlink:
            index = netlink.link_lookup(ifname=action.name)[0]
            alias = _ALIAS.format(action.owner)
            netlink.link("set", index=index, ifalias=alias, mtu=action.mtu, txqlen=_QUEUE, state="up")
            for address in action.addresses:
                host, _, length = address.partition("/")
                netlink.addr("add", index=index, address=host, prefixlen=int(length))
    except rtnl.NetlinkError as error:
        what = f"cannot configure the TUN device {action.name}: {error}"
        raise OperatorError(what, "run it as root") from error
