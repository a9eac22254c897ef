"""Count the primes in one range, and save the count: the work of one task.

    python3 primes.py START STOP FOLDER

Prints one line of JSON and writes the same to FOLDER/START-STOP.json, where `inv collect` finds it. Needs nothing but
python3, and knows nothing of Roomful: a task is just a command.
"""

from __future__ import annotations

import json
import os
import sys


def primes_up_to(limit: int) -> list[int]:
    """Sieve the primes up to a small limit."""
    is_prime = bytearray([1]) * (limit + 1)
    is_prime[:2] = bytes(2)
    for number in range(2, int(limit**0.5) + 1):
        if is_prime[number]:
            multiples = range(number * number, limit + 1, number)
            is_prime[multiples.start :: number] = bytes(len(multiples))
    return [number for number in range(limit + 1) if is_prime[number]]


def count_primes(start: int, stop: int) -> int:
    """Count the primes p with start <= p < stop by crossing out all multiples."""
    start = max(start, 2)
    if stop <= start:
        return 0
    is_prime = bytearray([1]) * (stop - start)
    for prime in primes_up_to(int(stop**0.5) + 1):
        first = max(prime * prime, -(-start // prime) * prime)
        multiples = range(first - start, stop - start, prime)
        if multiples:
            is_prime[multiples.start :: prime] = bytes(len(multiples))
    return is_prime.count(1)


def main(start: int, stop: int, folder: str) -> None:
    """Do one task. A task may be run again, on another host too: then it writes the same once more."""
    result = {"start": start, "stop": stop, "primes": count_primes(start, stop)}
    line = json.dumps(result)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{start}-{stop}.json")
    # Write, then rename: whoever reads the file sees all of it or none.
    with open(f"{path}.part", "w") as file:
        file.write(line + "\n")
    os.replace(f"{path}.part", path)
    print(line)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
