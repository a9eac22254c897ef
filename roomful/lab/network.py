"""A lab's network: the controller's namespace, a bridge in it, and one link a host. Commands for ip(8) and tc(8).

::

    controller's namespace rf-NAME                                   a host's namespace
      eth0 (10.83.1.254) === uplink  [bridge br0]  lab01 ============= eth0 (10.83.1.1)

The controller stands behind a link of its own, so that its uplink can be slower than the network. Nothing leads out.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from roomful.errors import RoomfulError
from roomful.lab import kernel
from roomful.lab.model import Lab, LabHost, netns_name
from roomful.lab.netns import CONFIGURATION
from roomful.lab.sshd import find_program
from roomful.openssh import NETNS_DIRECTORY, inside_namespace

BRIDGE = "br0"
UPLINK = "uplink"
#: tc-tbf(8): what a limited link may send at once. Its timer must keep up: a hundredth of a second's worth.
BURST_SECONDS = 0.01
LEAST_BURST_BYTES = 32_000
#: tc-tbf(8): what waits longer than this is dropped, as in a switch with a small buffer.
LATENCY = "50ms"
#: tc(8) counts in powers of ten.
RATE_UNITS = {"k": 1e3, "m": 1e6, "g": 1e9}
RESOLV_CONF = "# No name server: every name of the lab is in /etc/hosts.\n"


def parse_rate(text: str) -> int:
    """Read a rate such as ``200mbit``, ``1.5gbit`` or ``500kbit`` and return bits a second.

    Raises ValueError with a sentence that says what to write.
    """
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,6})?)([kmg])bit", text.strip().lower())
    if not match:
        raise ValueError(f"bad rate {text!r}; write a number and a unit: 200mbit, 1gbit")
    return int(float(match[1]) * RATE_UNITS[match[2]])


def controller_links(lab: Lab) -> list[str]:
    """Return the commands that build the controller's side."""
    prefix = lab.network.prefixlen
    return [
        "link set lo up",
        f"link add {BRIDGE} type bridge mcast_snooping 0",
        # The bridge is a switch: it must not answer for the controller's address and so lead around the uplink.
        f"link set {BRIDGE} arp off addrgenmode none",
        f"link set {BRIDGE} up",
        f"link add {UPLINK} type veth peer name eth0",
        f"link set {UPLINK} master {BRIDGE} addrgenmode none",
        f"link set {UPLINK} up",
        "link set eth0 addrgenmode none",
        "link set eth0 up",
        f"addr add {lab.controller_address}/{prefix} broadcast + dev eth0",
    ]


def uplink_limits(bits_per_second: int) -> list[str]:
    """Return the tc commands that limit the controller's link, each way."""
    burst = max(LEAST_BURST_BYTES, int(bits_per_second / 8 * BURST_SECONDS))
    shape = f"root tbf rate {bits_per_second}bit burst {burst} latency {LATENCY}"
    return [f"qdisc add dev {device} {shape}" for device in ("eth0", UPLINK)]


def host_link(host: LabHost, pid: int) -> list[str]:
    """Return the commands, for the controller's namespace, that connect a host whose init is this process."""
    return [
        f"link add {host.name} type veth peer name eth0 address {mac_address(host.address)} netns {pid}",
        f"link set {host.name} master {BRIDGE} addrgenmode none",
        f"link set {host.name} up",
    ]


def host_side(lab: Lab, host: LabHost) -> str:
    """Return the commands that a host's init gives to ``ip -batch``."""
    lines = [
        "link set lo up",
        "link set eth0 addrgenmode none",
        "link set eth0 up",
        f"addr add {host.address}/{lab.network.prefixlen} broadcast + dev eth0",
    ]
    return "".join(f"{line}\n" for line in lines)


def mac_address(address: str) -> str:
    """Return a MAC address that a host keeps when it is switched off and on, as real ones do."""
    return "02:72:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(address).packed)


def build(lab: Lab, hosts_file: str) -> None:
    """Make the controller's namespace and everything in it.

    Raises RoomfulError.
    """
    netns = netns_name(lab.name)
    folder = CONFIGURATION / netns
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hosts").write_text(hosts_file)
    (folder / "resolv.conf").write_text(RESOLV_CONF)
    try:
        _run([find_program("ip", "iproute2"), "netns", "add", netns])
    except RoomfulError as error:
        # In most containers even root may not.
        raise RoomfulError("cannot make a network namespace", why=error.why, fix="try lab.up --rootless") from error
    ip(lab.name, controller_links(lab))
    if lab.options.uplink:
        _run([find_program("tc", "iproute2"), "-n", netns, "-batch", "-"], uplink_limits(lab.options.uplink))


def refuse_nesting() -> None:
    """Refuse to build a lab from inside another: what we mount here the machine itself would not see.

    Raises RoomfulError.
    """
    for path in NETNS_DIRECTORY.glob(netns_name("*")):
        if inside_namespace(path.name):
            fix = "call inv lab.up by itself, before the other tasks"
            raise RoomfulError(f"this process is inside the lab {path.name.removeprefix(netns_name(''))!r}", fix=fix)


def connect(lab: Lab, pids: Mapping[LabHost, int]) -> None:
    """Give each of these hosts its link."""
    ip(lab.name, [line for host, pid in pids.items() for line in host_link(host, pid)])


def ip(lab: str, commands: Iterable[str]) -> None:
    """Carry out commands in the lab's controller namespace, all in one process.

    Raises RoomfulError with what ip said.
    """
    _run([find_program("ip", "iproute2"), "-n", netns_name(lab), "-batch", "-"], commands)


def drop_all(device: str, pid: int | None, lab: str) -> None:
    """Drop all that leaves by a device, in the network namespace of a process, or (None) in the controller's."""
    _tc(device, pid, lab, "replace", "blackhole")


def keep_all(device: str, pid: int | None, lab: str) -> None:
    """Undo ``drop_all``; where nothing was dropped this changes nothing."""
    with contextlib.suppress(RoomfulError):
        _tc(device, pid, lab, "del")


def _tc(device: str, pid: int | None, lab: str, action: str, *kind: str) -> None:
    path = NETNS_DIRECTORY / netns_name(lab) if pid is None else Path(f"/proc/{pid}/ns/net")
    tc = find_program("tc", "iproute2")
    _run(["nsenter", f"--net={path}", "--", tc, "qdisc", action, "dev", device, "root", *kind])


def exists(lab: str) -> bool:
    """Tell whether the lab's controller namespace, or a file of it, is there."""
    return (NETNS_DIRECTORY / netns_name(lab)).exists() or (CONFIGURATION / netns_name(lab)).exists()


def processes(lab: str) -> set[int]:
    """Return the processes that run in the lab's controller namespace."""
    try:
        wanted = os.stat(NETNS_DIRECTORY / netns_name(lab))
    except OSError:
        return set()
    found = set()
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            if os.path.samestat(os.stat(f"/proc/{pid}/ns/net"), wanted):
                found.add(pid)
    return found


def remove(lab: str) -> None:
    """Remove the controller's namespace with all its links, whatever part of it is there.

    Raises RoomfulError where the namespace's name stays.
    """
    path = NETNS_DIRECTORY / netns_name(lab)
    if path.exists():
        # Without its links, what is left of the namespace while a process is still in it is an empty shell.
        with contextlib.suppress(RoomfulError):
            ip(lab, [f"link del {BRIDGE}"])
        with contextlib.suppress(RoomfulError):
            ip(lab, [f"link del {UPLINK}"])
        with contextlib.suppress(OSError):
            kernel.unmount(path)
        # With the file go all copies of the mount on it, also those of other labs' hosts: nothing keeps it alive.
        path.unlink(missing_ok=True)
    folder = CONFIGURATION / netns_name(lab)
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    with contextlib.suppress(OSError):
        CONFIGURATION.rmdir()


def _run(argv: list[str], lines: Iterable[str] = ()) -> None:
    text = "".join(f"{line}\n" for line in lines)
    result = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RoomfulError(f"{Path(argv[0]).name} failed", where="lab network", why=result.stderr.strip())
