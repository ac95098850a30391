"""Where a lab lives: the directory of its state and the prefix of its namespaces.

Two labs with different places never touch each other; tests use a place of their own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_DIR: Final = Path("/run/anonnet-lab")
DEFAULT_PREFIX: Final = "anlab-"
CORE: Final = "core"
WEB: Final = "web"
CALLER: Final = "caller"


@dataclass(frozen=True, slots=True)
class Place:
    """A lab's directory and prefix; ANONNET_LAB_DIR and ANONNET_LAB_PREFIX override the defaults."""

    directory: Path = DEFAULT_DIR
    prefix: str = DEFAULT_PREFIX

    @classmethod
    def from_env(cls) -> Place:
        """Return the place that the environment names, or the default one."""
        return cls(
            Path(os.environ.get("ANONNET_LAB_DIR", DEFAULT_DIR)),
            os.environ.get("ANONNET_LAB_PREFIX", DEFAULT_PREFIX),
        )

    def namespace(self, host: str) -> str:
        """Return the namespace of a host given with or without the prefix."""
        return self.prefix + self.host(host)

    def host(self, name: str) -> str:
        """Strip the prefix, so that `anlab-r1` and `r1` name the same host."""
        return name.removeprefix(self.prefix)

    def of(self, host: str) -> Path:
        """Return the directory of one host: its configuration, state, logs and pid files."""
        return self.directory / host

    def config(self, host: str) -> Path:
        """Return the configuration file of one node."""
        return self.of(host) / "anonnet.toml"

    @property
    def bin(self) -> Path:
        """Return the directory, first in the PATH of every host, that holds `anonnet-tun`."""
        return self.directory / "bin"

    @property
    def record(self) -> Path:
        """Return the file that says which lab is up: a `Topology` in JSON."""
        return self.directory / "lab.json"

    @property
    def certificate(self) -> Path:
        """Return the PEM file with which `curl --cacert` trusts web.lab."""
        return self.of(WEB) / "web.pem"
