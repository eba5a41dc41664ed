"""Which partition a key belongs to: by the murmur2 hash of Kafka's Java clients, and of all that follow them."""

from __future__ import annotations

from functools import lru_cache

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """Returns the 32-bit murmur2 hash of a key, as Kafka's Java producer computes it."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        k ^= k >> 24
        h = h * _M & _MASK ^ k * _M & _MASK
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h ^= h >> 13
    h = h * _M & _MASK
    return h ^ h >> 15


@lru_cache(maxsize=1 << 16)
def partition_of(key: bytes, partitions: int) -> int:
    """Returns the partition of a key among `partitions`.

    Example:
        >>> partition_of(b"card-1", 4)
        0
    """
    return (murmur2(key) & 0x7FFFFFFF) % partitions
