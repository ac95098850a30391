"""A node's three key pairs, and the one file that keeps them (state directory, mode 0600).

The file is JSON: a version, the private keys in hex, and a checksum that tells a damaged file from a
changed identity. It is written whole or not at all, and over another only if told.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from anonnet.errors import OperatorError
from anonnet.ids import NodeId
from anonnet.wire.descriptor import node_id_of

KEYS_FILE: Final = "keys.json"
KEYS_VERSION: Final = 1
_NAMES: Final = ("identity", "link", "onion")
_MAX_FILE: Final = 4096
_RESTORE: Final = "restore it from a copy, or remove it and run `anonnet-tun keygen` for a new identity"


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """Private keys of a node; never printed."""

    identity: Ed25519PrivateKey = field(repr=False)  # signs descriptors; its public key gives the node id
    link: X25519PrivateKey = field(repr=False)  # static key of link handshakes
    onion: X25519PrivateKey = field(repr=False)  # static key of hop handshakes

    @classmethod
    def generate(cls) -> NodeKeys:
        """Make a new node's keys."""
        return cls(Ed25519PrivateKey.generate(), X25519PrivateKey.generate(), X25519PrivateKey.generate())

    @property
    def node_id(self) -> NodeId:
        """The id that these keys give the node."""
        return node_id_of(self.identity_public)

    @property
    def identity_public(self) -> bytes:
        """32 bytes, Ed25519."""
        return self.identity.public_key().public_bytes_raw()

    @property
    def link_public(self) -> bytes:
        """32 bytes, X25519."""
        return self.link.public_key().public_bytes_raw()

    @property
    def onion_public(self) -> bytes:
        """32 bytes, X25519."""
        return self.onion.public_key().public_bytes_raw()


def save_keys(keys: NodeKeys, state_dir: Path, *, replace: bool = False) -> Path:
    """Write the keys and return the file's path; OperatorError if it cannot be written, or is there.

    With `replace`, keys that are there go when the new ones are safely on disk, and not before.
    """
    path = state_dir / KEYS_FILE
    temporary = state_dir / f".{KEYS_FILE}.{os.getpid()}"
    secrets = {name: getattr(keys, name).private_bytes_raw().hex() for name in _NAMES}
    found = msgspec.json.encode({"version": KEYS_VERSION, **secrets, "check": _checksum(secrets)})
    text = msgspec.json.format(found, indent=1).decode() + "\n"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and not replace:
            raise OperatorError(f"{path} exists", "if this node shall have a new identity: keygen --force")
        try:
            _write(temporary, text)
            temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(state_dir)
    except OSError as error:
        raise OperatorError(f"cannot write {path} ({error.strerror})", "check the state directory") from error
    return path


def load_keys(state_dir: Path) -> NodeKeys:
    """Read the keys; OperatorError when they are missing, readable by others or damaged."""
    path = state_dir / KEYS_FILE
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            text = file.read(_MAX_FILE + 1)
    except FileNotFoundError as error:
        raise OperatorError(f"{path} does not exist", "run `anonnet-tun keygen`") from error
    except PermissionError as error:
        raise OperatorError(f"may not read {path}", "run this with sudo") from error
    except OSError as error:
        raise OperatorError(f"cannot read {path} ({error.strerror})", "check who owns it") from error
    if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
        raise OperatorError(f"{path} can be read by others", f"run `chmod 600 {path}`")
    try:
        return _parse(text)
    except (msgspec.DecodeError, ValueError, KeyError, TypeError, RecursionError):
        # The cause is left out: a parser's message may quote what it parsed.
        raise OperatorError(f"{path} is damaged", _RESTORE) from None


def _parse(text: bytes) -> NodeKeys:
    if len(text) > _MAX_FILE:
        raise ValueError
    found = msgspec.json.decode(text)
    secrets = {name: found[name] for name in _NAMES}
    if found["version"] != KEYS_VERSION or not hmac.compare_digest(found["check"], _checksum(secrets)):
        raise ValueError
    identity, link, onion = (bytes.fromhex(secrets[name]) for name in _NAMES)
    return NodeKeys(
        Ed25519PrivateKey.from_private_bytes(identity),
        X25519PrivateKey.from_private_bytes(link),
        X25519PrivateKey.from_private_bytes(onion),
    )


def _checksum(secrets: dict[str, str]) -> str:
    joined = " ".join(secrets[name] for name in _NAMES)
    return hashlib.sha256(b"AnonNet keys " + joined.encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
