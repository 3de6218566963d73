"""A digest made piece by piece is that of the whole."""

from __future__ import annotations

import hashlib

import pytest

from audit.held_hash import held_sha256


@pytest.mark.parametrize("length", [0, 1, 2046, 2047, 2048, 4094, 4095, 65_536, 65_537, 200_000])
def test_a_digest_is_that_of_the_whole(length: int) -> None:
    """Whatever the length, around every border of the pieces."""
    data = bytes(number % 251 for number in range(length))
    assert held_sha256(data).digest() == hashlib.sha256(data).digest()
