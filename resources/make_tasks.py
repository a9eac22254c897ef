"""Write the task file: one line, which is one task, for each range of numbers.

python3 make_tasks.py > tasks.txt
"""

from __future__ import annotations

LIMIT = 1_000_000_000
TASKS = 250

if __name__ == "__main__":
    width = LIMIT // TASKS
    for start in range(0, LIMIT, width):
        print(f"python3 primes.py {start} {start + width} out")
