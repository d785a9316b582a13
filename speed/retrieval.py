"""Time and memory of exact retrieval in both directions: `pair_ranks` on simulated unit vectors.

`OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=2 python speed/retrieval.py [pairs] [dimensions]` prints seconds, the resident
memory before the search (both sides lie in it already) and its highest point, the recalls, what the matrix products
alone take, and the largest error of a cosine in float32, against which `nearest.TIE` is set. One pair in a hundred
repeats another's caption, so that the groups are at work too.
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np

from pathloom.nearest import BLOCK_BYTES, TIE, pair_ranks

_KIB = 1024


def unit_rows(rng: np.random.Generator, n: int, d: int) -> np.ndarray:
    vectors = rng.standard_normal((n, d), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def seconds_of_products(left: np.ndarray, right: np.ndarray) -> float:
    """The same blocks multiplied once, nothing compared."""
    rows = max(1, BLOCK_BYTES // (4 * len(right)))
    start = time.perf_counter()
    for first in range(0, len(left), rows):
        left[first : first + rows] @ right.T
    return time.perf_counter() - start


def largest_error(left: np.ndarray, right: np.ndarray) -> float:
    products = left @ right.T
    return float(np.abs(products - left.astype(np.float64) @ right.T.astype(np.float64)).max())


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    d = int(sys.argv[2]) if len(sys.argv) > 2 else 512
    rng = np.random.default_rng(0)
    images = unit_rows(rng, n, d)
    texts = images + 6 * unit_rows(rng, n, d)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    captions = np.arange(n)
    repeated, sources = rng.permutation(n)[: 2 * (n // 100)].reshape(2, -1)
    captions[repeated] = sources
    texts[repeated] = texts[sources]
    before, earlier_peak = resident_bytes(), peak_bytes()
    start, busy_start = time.perf_counter(), time.process_time()
    i2t, t2i = pair_ranks(images, texts, captions)
    seconds, busy = time.perf_counter() - start, time.process_time() - busy_start
    print(f"{n:,} pairs, {d} dimensions: {seconds:.1f} s for both directions, {busy:.1f} s of all cores")
    print(f"resident before {before / 2**20:.0f} MiB, peak before {earlier_peak / 2**20:.0f} MiB")
    print(
        f"peak {peak_bytes() / 2**20:.0f} MiB, growth over resident {(peak_bytes() - before) / 2**20:.0f} MiB"
    )
    for name, ranks in (("i2t", i2t), ("t2i", t2i)):
        print(name, ", ".join(f"R@{k} {100 * (ranks <= k).mean():.2f}" for k in (1, 5, 10, 20)))
    print(f"matrix products alone, once: {seconds_of_products(images, texts):.1f} s")
    print(f"largest error of a cosine: {largest_error(images[:2000], texts[:2000]):.1e}; a tie is {TIE:.0e}")


if __name__ == "__main__":
    main()
