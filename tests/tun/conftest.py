from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tun_namespaces


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
