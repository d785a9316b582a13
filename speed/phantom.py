"""How many synthetic images one core draws: `OMP_NUM_THREADS=1 python speed/phantom.py [count]` prints images/s."""

import sys
import time
from collections.abc import Callable

from pathloom.phantom.cell import draw_cell
from pathloom.phantom.tissue import draw_tissue

_WARM_UP = 100  # the shared banks are built by the first images


def images_per_second(draw: Callable[[int], object], count: int) -> float:
    """Images per second of this process's CPU time, after the banks are built."""
    for seed in range(_WARM_UP):
        draw(seed)
    start = time.process_time()
    for seed in range(count):
        draw(seed)
    return count / (time.process_time() - start)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for name, draw in (("tissue", draw_tissue), ("cell", draw_cell)):
        print(f"{name}: {images_per_second(draw, count):.0f} images/s at 112 px, one core")


if __name__ == "__main__":
    main()
