"""Wait until SSH servers speak."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from roomful.lab.netns import call_inside

#: Pause before a server that did not answer is asked again.
PAUSE_SECONDS = 0.05
#: One try: a banner that takes longer is asked for again.
TRY_SECONDS = 5.0


def wait_for_banners(
    addresses: Iterable[tuple[str, int]],
    netns: str | None,
    seconds: float,
    on_answer: Callable[[str], None],
) -> set[str]:
    """Ask every address for its SSH banner until it says one; return the addresses that did not within the time.

    ``on_answer`` is called with each address as it answers.
    """
    wanted = list(addresses)
    answered: set[str] = set()

    async def ask(address: str, port: int) -> None:
        while address not in answered:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                async with asyncio.timeout(TRY_SECONDS):
                    if await banner(address, port):
                        answered.add(address)
                        on_answer(address)
                        return
            await asyncio.sleep(PAUSE_SECONDS)

    async def ask_all() -> None:
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(ask(address, port) for address, port in wanted))

    call_inside(netns, lambda: asyncio.run(ask_all()))
    return {address for address, _ in wanted} - answered


async def banner(address: str, port: int) -> str:
    """Return the line that an SSH server says first; "" where the connection ends before.

    Raises OSError.
    """
    reader, writer = await asyncio.open_connection(address, port)
    try:
        line = await reader.readline()
    finally:
        writer.close()
    return line.decode("ascii", errors="replace").strip() if line.startswith(b"SSH-") else ""
