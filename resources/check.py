"""Add up the collected counts and compare the sum with the known answer.

    python3 check.py RESULTS

RESULTS is the folder that `inv collect` filled. Exit code 0 only if every range is there and the sum is right.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

LIMIT = 1_000_000_000
#: The number of primes below 10**9 (OEIS A006880).
ANSWER = 50_847_534


def main(results: Path) -> str:
    """Return a sentence about the sum; ends the program with another one if something is wrong."""
    counts: dict[tuple[int, int], int] = {}
    hosts = set()
    for path in results.glob("*/out/*.json"):
        result = json.loads(path.read_text())
        span = result["start"], result["stop"]
        # A task that ran twice left its file on two hosts: both must say the same.
        if counts.setdefault(span, result["primes"]) != result["primes"]:
            sys.exit(f"{path} disagrees with the same range from another host")
        hosts.add(path.parts[-3])
    reached = 0
    for start, stop in sorted(counts):
        if start != reached:
            sys.exit(f"the range from {reached:,} to {start:,} is missing")
        reached = stop
    if reached != LIMIT:
        sys.exit(f"the range from {reached:,} to {LIMIT:,} is missing")
    total = sum(counts.values())
    if total != ANSWER:
        sys.exit(f"wrong: {total:,} primes below {LIMIT:,}, it should be {ANSWER:,}")
    return f"{len(counts)} ranges from {len(hosts)} hosts: {total:,} primes below {LIMIT:,}, as it should be"


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
