"""Compresses a file with the settings in the environment; prints telemetry on the way, metrics at the end."""

import os
import sys
import time
import zlib

ROUNDS = 5
STRATEGIES = {
    "default": zlib.Z_DEFAULT_STRATEGY,
    "filtered": zlib.Z_FILTERED,
    "huffman": zlib.Z_HUFFMAN_ONLY,
    "rle": zlib.Z_RLE,
}


def main(path: str) -> None:
    with open(path, "rb") as file:
        data = file.read()
    level, memory, strategy = (os.environ[name] for name in ("level", "memory", "strategy"))
    rates, size = [], 0
    for _ in range(ROUNDS):
        began = time.perf_counter()
        packer = zlib.compressobj(
            int(level), zlib.DEFLATED, zlib.MAX_WBITS, int(memory), STRATEGIES[strategy]
        )
        size = len(packer.compress(data)) + len(packer.flush())
        rates.append(len(data) / 1e6 / (time.perf_counter() - began))
        print(f"telemetry mb_per_s={rates[-1]:.1f}", flush=True)
    print(f"mb_per_s: {max(rates):.1f}")
    print(f"ratio: {len(data) / size:.2f}")


main(sys.argv[1])
