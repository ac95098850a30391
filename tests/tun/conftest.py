from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tun_namespaces

from anonnet.tun.firewall import LinkEndpoint
from anonnet.tun.host import UpSettings

LINKS = (LinkEndpoint("raw", "10.9.0.1", 253), LinkEndpoint("raw", "fd09::1", 253))


@pytest.fixture
def hosts() -> Iterator[None]:
    with tun_namespaces.two_hosts():
        yield


@pytest.fixture
def resolv_conf(tmp_path: Path) -> Path:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"# as it was\nnameserver 10.9.0.1\n\n")
    path.chmod(0o640)
    return path


@pytest.fixture
def settings(tmp_path: Path, resolv_conf: Path) -> UpSettings:
    return UpSettings(
        links=LINKS,
        lan=("10.50.0.0/16",),
        run_dir=tmp_path / "run",
        state_dir=tmp_path / "state",
        resolv_conf=resolv_conf,
    )
