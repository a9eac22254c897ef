"""A client-server benchmark over a grid: two programs on two hosts, one row of a CSV for each combination."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import config

from roomful.experiments import (
    Console,
    CSVGenerator,
    ParameterGrid,
    Server,
    ServerList,
    SubstrMatcher,
    log,
    reg_exp,
)

HERE = Path(__file__).parent
server_list = config.servers[:2]


@reg_exp(servers=server_list, run_always=True)
def install(servers: ServerList) -> None:
    """Bring the programs to the hosts; with --resume this runs all the same."""
    for server in servers:
        server.run_cmd("mkdir -p ~/echo").wait()
        for program in ("echo_server.py", "echo_client.py"):
            server.send_file(HERE / program, "~/echo/")


@reg_exp(
    servers=server_list,
    params=ParameterGrid(size=[1, 1024, 65536], requests=[200, 1000]),
)
def echo(servers: ServerList, size: int, requests: int) -> None:
    """Measure one combination."""
    servers.cd("~/echo")
    serving, asking = servers[0], servers[1]

    ready = SubstrMatcher("ready on port")
    lines: list[str] = []
    server = serving.run_cmd(f"python3 echo_server.py {address(serving)}", stdout=[ready, lines.append])
    ready.wait()
    port = re.search(r"port (\d+)", "".join(lines))[1]

    row = CSVGenerator(
        r"requests_per_second=(?P<requests_per_second>\d+)",
        CSVGenerator.Percentile(r"latency_us=(?P<latency_us_median>[0-9.]+)", 0.5),
        size=size,
        requests=requests,
    )
    asking.run_cmd(
        f"python3 echo_client.py {address(serving)} {port} {size} {requests}",
        stdout=row,
        stderr=Console(fmt=f"{asking.id}: %s"),
        timeout=60,
    ).wait()
    server.kill()
    row.write("echo.csv")
    log(f"size {size}: {row.as_dict['requests_per_second']} requests a second")


def address(server: Server) -> Any:
    """Where the other host finds this one: a host list's `address=`, else its name."""
    return getattr(server, "address", server.host)
