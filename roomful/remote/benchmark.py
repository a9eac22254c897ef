"""How quick one CPU of this machine is: the same multiplications in every round, on any Python 3.8 or newer.

Python multiplies large integers in C, in the same way since 3.0: its version and build count for less than a quarter.
Each round's wall time and CPU time go to standard output as one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time

#: Numbers of this many bits, multiplied this often: some 0.1 s a round on a machine of 2022.
BITS = 60000
TIMES = 120


def one_round() -> tuple[float, float]:
    """Return the wall and the CPU seconds of one round."""
    number = (1 << BITS) // 7
    wall, cpu = time.perf_counter(), time.process_time()
    product = 0
    for _ in range(TIMES):
        product = number * number
    assert product
    return time.perf_counter() - wall, time.process_time() - cpu


def main(rounds: int) -> None:
    """Time some rounds, after one that only warms up."""
    one_round()
    times = [one_round() for _ in range(rounds)]
    sys.stdout.write(f"\nroomful-benchmark {json.dumps(times)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]))
