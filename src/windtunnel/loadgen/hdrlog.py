"""HdrHistogram's log format, version 1.3, for other programs that draw or merge histograms.

The histograms in it are of version 2: a header, then the counts in the order of the buckets as ZigZag LEB128,
where a negative number stands for so many empty ones; compressed, in base64.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from windtunnel.loadgen.histogram import LONGEST_NS, Histogram, lowest_of, width_of

__all__ = ["Interval", "decoded", "encoded", "log_lines"]

_PLAIN, _COMPRESSED = 0x1C849313, 0x1C849314
_DIGITS = 3
_HEADER = struct.Struct(">iiiiqqd")
"""Cookie, length of the counts, offset, significant digits, lowest and highest value, ratio."""
_NS_IN_MS = 1e6


class Interval(NamedTuple):
    """A stretch of time, in seconds from the beginning of the log, with what was counted in it."""

    begin_s: float
    seconds: float
    max_ns: int
    histogram: str


def encoded(histogram: Histogram) -> str:
    """As HdrHistogram's compressed base64."""
    counts = bytearray()
    following = 0
    for bucket in sorted(histogram.counts):
        if bucket > following:
            counts += _zigzag(following - bucket)
        counts += _zigzag(histogram.counts[bucket])
        following = bucket + 1
    plain = _HEADER.pack(_PLAIN, len(counts), 0, _DIGITS, 1, LONGEST_NS, 1.0) + counts
    packed = zlib.compress(plain)
    return base64.b64encode(struct.pack(">ii", _COMPRESSED, len(packed)) + packed).decode()


def decoded(text: str) -> Histogram:
    """What ``encoded`` made one of. Its sum, minimum and maximum are as exact as the buckets.

    :raises ValueError: if it is none.
    """
    raw = base64.b64decode(text)
    cookie, length = struct.unpack_from(">ii", raw)
    if cookie != _COMPRESSED:
        raise ValueError(f"expected a compressed histogram of version 2, found cookie {cookie:#x}")
    plain = zlib.decompress(raw[8 : 8 + length])
    found = Histogram()
    bucket = 0
    for count in _unzigzagged(plain[_HEADER.size :]):
        if count > 0:
            found.add(lowest_of(bucket) + width_of(bucket) // 2, count)
        bucket += 1 if count > 0 else -count
    return found


def log_lines(intervals: Iterable[Interval], *, start: datetime) -> Iterator[str]:
    """A whole log; its times are in seconds, its maxima in ms, its histograms in ns."""
    yield "#[Histogram log format version 1.3]"
    day = f"{start:%a %b %d %H:%M:%S} UTC {start:%Y}"
    yield f"#[StartTime: {start.timestamp():.3f} (seconds since epoch), {day}]"
    yield '"StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram"'
    for one in intervals:
        yield f"{one.begin_s:.3f},{one.seconds:.3f},{one.max_ns / _NS_IN_MS:.3f},{one.histogram}"


def _zigzag(number: int) -> bytes:
    """Google's ZigZag encoding in little-endian groups of 7 bits; HdrHistogram ends it at the ninth byte."""
    value = (number << 1) ^ (number >> 63)
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 0x7F and len(out) < 8:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value & 0xFF)
    return bytes(out)


def _unzigzagged(data: bytes) -> Iterator[int]:
    value, shift = 0, 0
    for byte in data:
        is_last = shift == 56 or byte < 0x80
        value |= (byte if shift == 56 else byte & 0x7F) << shift
        shift += 7
        if is_last:
            yield (value >> 1) ^ -(value & 1)
            value, shift = 0, 0
