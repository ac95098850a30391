"""Files that follow from their names."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anonnet.lab.content import CHUNK, content, content_sha256, size_of


@pytest.mark.parametrize(
    ("name", "size"),
    [("20MB.bin", 20_000_000), ("20kB.bin", 20_000), ("64KiB", 65_536), ("0B", 0), ("3B-second.txt", 3)],
)
def test_sizes(name: str, size: int) -> None:
    assert size_of(name) == size
    if size < 10**6:
        assert sum(map(len, content(name))) == size


@pytest.mark.parametrize("name", ["", "MB", "20mb", "../20MB", "20MB/x", "99999999999GB", "٣MB"])
def test_other_names_are_no_files(name: str) -> None:
    assert size_of(name) is None
    with pytest.raises(ValueError, match="not a file"):
        next(content(name))


def test_bytes_are_fixed_for_ever() -> None:
    assert b"".join(content("16B.bin")).hex() == "2990f847ba8f84118fc5d52f89ff52e3"
    assert content_sha256("20MB.bin") == "f226c684ace5be06b973c12d86c51123fa7cf0ad44a18cc21bd035e9c8bbfc95"


@given(start=st.integers(0, 3 * CHUNK), length=st.integers(0, 2 * CHUNK))
def test_any_range_is_a_part_of_the_whole(start: int, length: int) -> None:
    whole = b"".join(content("200kB"))
    assert b"".join(content("200kB", start, start + length)) == whole[start : start + length]


def test_the_checksum_is_that_of_the_content() -> None:
    assert content_sha256("1MB") == hashlib.sha256(b"".join(content("1MB"))).hexdigest()
    assert content_sha256("1MB") != content_sha256("1MB.bin")
