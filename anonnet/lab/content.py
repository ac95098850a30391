"""The files of the lab's web host: pseudo-random bytes that follow from the file's name alone.

`20MB.bin` is 20,000,000 bytes, `64KiB` 65,536. Whoever knows the name knows every byte, so a checksum can be
compared without a second copy. The bytes are AES-128-CTR over zeros, keyed by the name: fast, and any
range of them can be made on its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CHUNK: Final = 1 << 16  # bytes; a multiple of the cipher's block
MAX_SIZE: Final = 100 * 10**9
_BLOCK: Final = 16
_NAME: Final = re.compile(r"(\d{1,12})(B|kB|MB|GB|KiB|MiB|GiB)([-_.][\w.-]*)?", re.ASCII)
_UNIT: Final = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def size_of(name: str) -> int | None:
    """Return the size in bytes that a file's name asks for; None if there is no such file."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    size = int(match[1]) * _UNIT[match[2]]
    return size if size <= MAX_SIZE else None


def content(name: str, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
    """Yield bytes start..stop of the file in chunks of at most CHUNK; ValueError if there is no such file."""
    size = size_of(name)
    if size is None:
        raise ValueError(f"not a file of the lab: {name!r}")
    stop = size if stop is None else min(stop, size)
    key = hashlib.sha256(b"anonnet lab file " + name.encode()).digest()[:16]
    counter, skip = divmod(start, _BLOCK)
    stream = Cipher(algorithms.AES(key), modes.CTR(counter.to_bytes(_BLOCK, "big"))).encryptor()
    stream.update(bytes(skip))
    zeros = bytes(CHUNK)
    for position in range(start, stop, CHUNK):
        yield stream.update(zeros[: stop - position])


def content_sha256(name: str) -> str:
    """Return the SHA-256 of a whole file in hexadecimal, as `sha256sum` prints it."""
    digest = hashlib.sha256()
    for chunk in content(name):
        digest.update(chunk)
    return digest.hexdigest()
