# Computes a checksum over $mib MiB, read in blocks of $block_kib KiB, and prints how fast that went.
set -eu

now_ms() { echo $(($(date +%s%N) / 1000000)); }

began=$(now_ms)
dd if=/dev/zero bs="${block_kib}k" count=$((mib * 1024 / block_kib)) 2>/dev/null | "$program" >/dev/null
took=$(($(now_ms) - began))
echo "mb_per_s: $((mib * 1000 / (took > 0 ? took : 1)))"
