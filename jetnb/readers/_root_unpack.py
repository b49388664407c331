"""Compressed blocks of ROOT, unpacked into as many bytes as the file says and never one more.

Baskets, pages and headers are compressed in blocks of at most 16 MiB, each with two letters, a
method, and its sizes. A few kilobytes can claim, or really unpack to, more than any machine has: so
claims are compared with `LIMIT` and with each other before memory is taken, and every block is
unpacked into a buffer of the size that it claims.
"""

from __future__ import annotations

import lzma

import cramjam
import numpy as np
import xxhash
from zlib_ng import zlib_ng

LIMIT = 1 << 28  # bytes of one basket, page or header: the largest real ones have a tenth of it
BLOCK = 1 << 30  # bytes of all columns of a block of rows: a usual one has a thirtieth of it
HEADER = (
    9  # bytes before each block: two letters, method, sizes packed and unpacked of three bytes each
)
ERRORS = (cramjam.DecompressionError, zlib_ng.error, lzma.LZMAError)


def unpack(packed: memoryview, n_bytes: int) -> np.ndarray:
    """The `n_bytes` that `packed` holds, as uint8; `ValueError` where it holds more, less, or what
    cannot be unpacked.

    As many bytes as `packed` has are not compressed.
    """
    if not 0 <= n_bytes <= LIMIT:
        raise ValueError(
            f"{n_bytes} bytes are claimed for one basket, page or header, but {LIMIT} is the most"
        )
    if len(packed) == n_bytes:
        return np.frombuffer(packed, np.uint8)
    blocks, claimed = [], 0
    while len(packed) > 0:
        n_packed, n = (int.from_bytes(packed[i : i + 3], "little") for i in (3, 6))
        block = packed[HEADER : HEADER + n_packed]
        if len(block) != n_packed or n == 0:
            raise ValueError(
                f"a compressed block claims {n_packed} bytes for {n}, where {len(packed)} bytes are left"
            )
        blocks.append((bytes(packed[:2]), block, claimed, claimed := claimed + n))
        packed = packed[HEADER + n_packed :]
        if claimed > n_bytes:
            break
    if claimed != n_bytes:
        raise ValueError(f"compressed blocks claim {claimed} bytes, but their header {n_bytes}")
    out = np.empty(n_bytes, np.uint8)
    for kind, block, low, high in blocks:
        try:
            n = _fill(kind, block, out[low:high])
        except ERRORS as error:
            raise ValueError(f"a compressed block cannot be unpacked ({error})") from None
        if n != high - low:
            raise ValueError(f"a compressed block of {high - low} bytes unpacks to {n}")
    return out


def _fill(kind: bytes, block: memoryview, out: np.ndarray) -> int:
    """Unpack `block` into `out`, and how many bytes that were; one more than fit says that there
    are more.
    """
    if kind == b"L4":
        if xxhash.xxh64(block[8:]).digest() != bytes(block[:8]):
            raise ValueError("a block of LZ4 is not that of its checksum")
        return cramjam.lz4.decompress_block_into(block[8:], out, output_len=len(out))
    if kind == b"ZS":
        return cramjam.zstd.decompress_into(block, out)
    if kind in (b"ZL", b"XZ"):
        stream = zlib_ng.decompressobj() if kind == b"ZL" else lzma.LZMADecompressor(memlimit=LIMIT)
        data = stream.decompress(block, len(out))
        out[: len(data)] = np.frombuffer(data, np.uint8)
        more = b"" if stream.eof else stream.decompress(getattr(stream, "unconsumed_tail", b""), 1)
        if not stream.eof and not more:
            raise ValueError("a compressed block ends too early")
        return len(data) + len(more)
    raise ValueError(f"compression {kind!r} is not known")


class Budget:
    """Counts the bytes of a block of rows; `ValueError` before there are more than `BLOCK`."""

    def __init__(self):
        self._spent = 0

    def spend(self, n_bytes: int) -> None:
        self._spent += n_bytes
        if self._spent > BLOCK:
            raise ValueError(
                f"a block of rows claims more than {BLOCK} bytes: take a smaller block_size, if the file "
                "is not damaged"
            )
