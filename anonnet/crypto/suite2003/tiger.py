"""Tiger-192 (Anderson and Biham 1996) from the system's libgcrypt; HMAC (RFC 2104) and HKDF (RFC 5869).

No Python package has Tiger. Bytes are in the order of the NESSIE submission and of RFC 2440, which libgcrypt
calls TIGER1; its TIGER is an old mistake of byte order, TIGER2 another padding.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Final

from anonnet.errors import OperatorError

DIGEST_LEN: Final = 24
LIBRARY: Final = "libgcrypt.so.20"
# gcrypt.h, of every 1.x: part of the library's ABI.
_TIGER1: Final = 306
_HMAC_TIGER1: Final = 109
_RESET: Final = 4
_TEST_ALGO: Final = 8


@cache
def library() -> ctypes.CDLL:
    """Load libgcrypt, once; OperatorError when it is missing or will not do Tiger (as in FIPS mode)."""
    try:
        found = ctypes.CDLL(LIBRARY)
    except OSError:
        hint = "apt-get install libgcrypt20"
        raise OperatorError(f"suite anonnet-2003 needs the system library {LIBRARY}", hint) from None
    size, data, out = ctypes.c_size_t, ctypes.c_char_p, ctypes.c_void_p
    found.gcry_check_version.argtypes = [data]
    found.gcry_md_algo_info.argtypes = [ctypes.c_int, ctypes.c_int, out, out]
    found.gcry_md_hash_buffer.argtypes = [ctypes.c_int, out, data, size]
    found.gcry_md_hash_buffer.restype = None
    found.gcry_mac_open.argtypes = [out, ctypes.c_int, ctypes.c_uint, out]
    found.gcry_mac_setkey.argtypes = [out, data, size]
    found.gcry_mac_ctl.argtypes = [out, ctypes.c_int, out, size]
    found.gcry_mac_write.argtypes = [out, data, size]
    found.gcry_mac_read.argtypes = [out, out, out]
    found.gcry_mac_close.argtypes = [out]
    found.gcry_mac_close.restype = None
    found.gcry_check_version(None)  # the library asks to be greeted before anything else
    if found.gcry_md_algo_info(_TIGER1, _TEST_ALGO, None, None):
        hint = "use a host whose libgcrypt is not in FIPS mode, or the default suite"
        raise OperatorError(f"{LIBRARY} of this host refuses Tiger", hint)
    return found


def tiger(data: bytes) -> bytes:
    """Return the 24-byte hash."""
    digest = ctypes.create_string_buffer(DIGEST_LEN)
    library().gcry_md_hash_buffer(_TIGER1, digest, data, len(data))
    return digest.raw


class HmacTiger:
    """HMAC-Tiger under one key; the key's share of the work is done once."""

    __slots__ = ("_context", "_digest", "_lengths", "_library")

    def __init__(self, key: bytes) -> None:
        """Take a key of any length; RFC 2104 advises 24 bytes or more."""
        self._library = library()
        self._context = ctypes.c_void_p()
        self._digest = ctypes.create_string_buffer(DIGEST_LEN)
        _check(self._library.gcry_mac_open(ctypes.byref(self._context), _HMAC_TIGER1, 0, None))
        _check(self._library.gcry_mac_setkey(self._context, key, len(key)))

    def digest(self, data: bytes) -> bytes:
        """Return the 24-byte code of `data`."""
        found, context = self._library, self._context
        _check(found.gcry_mac_ctl(context, _RESET, None, 0))
        _check(found.gcry_mac_write(context, data, len(data)))
        length = ctypes.c_size_t(DIGEST_LEN)
        _check(found.gcry_mac_read(context, self._digest, ctypes.byref(length)))
        return self._digest.raw

    def __del__(self) -> None:
        self._library.gcry_mac_close(self._context)  # wipes the key


def hmac_tiger(key: bytes, data: bytes) -> bytes:
    """Return HMAC-Tiger of `data`, 24 bytes."""
    return HmacTiger(key).digest(data)


def hkdf_tiger(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes of HKDF: RFC 5869 with HMAC-Tiger."""
    expand = HmacTiger(hmac_tiger(salt, secret))
    material = block = b""
    for number in range(1, -(-length // DIGEST_LEN) + 1):
        block = expand.digest(block + info + bytes([number]))
        material += block
    return material[:length]


def _check(code: int) -> None:
    """No input makes these calls fail; a library that does is not the one that was tested at the start."""
    if code:
        raise RuntimeError(f"libgcrypt error {code}")
