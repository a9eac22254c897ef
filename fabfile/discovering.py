"""Find hosts on a network, and keep those that can be used."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context, Exit

from roomful.errors import InputError

from ._fanout import begin, explain_names, learn, print_table, show_table
from ._step import current_call, settings_of, step

if TYPE_CHECKING:
    import ipaddress

    from roomful.discovery import Discovery
    from roomful.hosts import Host, ListLine
    from roomful.lab import Lab
    from roomful.list_update import ListUpdate
    from roomful.nmap import ScanOptions
    from roomful.nmap_report import UpHost

#: Names shown of the hosts that a list has lost; --json has all of them.
NAMES_SHOWN = 8


@step(
    help={
        "network": "network to scan: 10.0.0.0/24, several with commas",
        "from_": "read a saved nmap report (XML, grepable or normal output) instead of scanning",
        "match": "keep hosts by name: .enseeiht.fr (its end), node* (a pattern), lab (a part); several with commas",
        "output": "host list for the hosts that answer on the port; one that exists is brought up to date",
        "prune": "also remove from the list what was not found",
        "port": "port of the SSH servers (default 22)",
        "max_rtt_timeout": "longest time that a reply may take, such as 60ms (default: nmap's own)",
        "rate": "packets a second, at least (default 5000)",
        "quick": "leave out the slow pass that follows where packets are lost",
        "dns_timeout": "seconds without an answer after which names are given up (default 2); 0 looks none up",
        "yes": "scan even more than a /16",
    }
)
def discover(
    c: Context,
    network: str = "",
    from_: str = "",
    match: str = "",
    output: str = "",
    prune: bool = False,
    port: int = 22,
    max_rtt_timeout: str = "",
    rate: int = 5000,
    quick: bool = False,
    dns_timeout: float = 2.0,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Hosts: find the machines on a network whose SSH port answers.

    Prints every host that is up; --output also writes those that answer to a host list. A list that exists keeps
    its lines as they are, and new hosts are added to it. Names come from reverse DNS, where they lead back to the
    address. Exit code 1 if no host answers. Scan only networks that you may scan.

    Example:
        inv discover --network 10.0.0.0/24 --output mylab
        inv discover --network 147.127.133.1/20 --match .enseeiht.fr --max-rtt-timeout 60ms --output n7
        inv discover --from report.xml --output mylab
    """
    from roomful.discovery import entry_of, from_report, matching, parse_networks, usable
    from roomful.hosts import output_path
    from roomful.list_update import read_lines
    from roomful.nmap import ScanOptions, parse_time

    settings = settings_of(c)
    options = ScanOptions(port, parse_time(max_rtt_timeout), rate, quick, dns_timeout)
    path = output_path(output, settings) if output else None
    lines = read_lines(path) if path else ()
    if bool(network) == bool(from_):
        what = "give --network or --from, not both" if network else "no network given"
        raise InputError(what, fix="" if network else "write for example: inv discover --network 10.0.0.0/24")
    if prune and not path:
        raise InputError("--prune needs a host list", fix="give --output NAME")
    lab = None
    if network:
        networks = parse_networks(network, large=yes)
        lab = _enter_lab(networks)
        found = _scan(networks, options)
    else:
        found = from_report(Path(from_).expanduser(), options)
    hosts = matching(found.hosts, match)
    entries = {host.address: _lab_entry(lab, entry_of(host, port), host.address) for host in usable(hosts)}
    update = _update(path, lines, entries, options, prune=prune) if path else None
    (_show_json if json else _show)(found, hosts, entries, port, update)
    if not entries:
        raise Exit(code=1)


def _enter_lab(networks: Sequence[ipaddress.IPv4Network]) -> Lab | None:
    """Go where a lab's network can be reached, if it is one."""
    from roomful import lab as labs

    found = {lab.name: lab for network in networks if (lab := labs.find_by_network(str(network)))}
    for lab in found.values():
        inside = [network for network in networks if network.subnet_of(lab.network)]
        if len(inside) == len(networks):
            if lab.netns:
                labs.enter(lab.netns)
            return lab
        if inside:
            raise InputError(f"{inside[0]} is the lab {lab.name!r}", where="--network", fix="scan it by itself")
    return None


def _scan(networks: Sequence[ipaddress.IPv4Network], options: ScanOptions) -> Discovery:
    from roomful import progress
    from roomful.discovery import discover as discover_hosts

    addresses = sum(network.num_addresses for network in networks)
    with progress.bar("scanning", addresses, "addresses") as report:
        return discover_hosts(networks, options, report)


def _lab_entry(lab: Lab | None, host: Host, address: str) -> Host:
    """Return the host as the lab lists it (with how to reach it), if it is one of the lab's."""
    if lab is None or address not in {item.address for item in lab.hosts}:
        return host
    from roomful.lab import host_entry

    return host_entry(lab, lab.host(address), host.name if host.name != address else "")


def _update(
    path: Path, lines: Sequence[ListLine], entries: Mapping[str, Host], options: ScanOptions, *, prune: bool
) -> ListUpdate:
    from roomful.hosts import ListLine
    from roomful.list_update import plan_update
    from roomful.names import addresses_of

    lines = lines or (ListLine(1, f"# Found by: {current_call().line()}", None),)
    update = plan_update(path, lines, entries, lambda names: addresses_of(names, options.dns_timeout), prune=prune)
    update.write()
    return update


def _show(
    found: Discovery, hosts: Sequence[UpHost], entries: Mapping[str, Host], port: int, update: ListUpdate | None
) -> None:
    """Print the hosts as a table (stdout), and what was done (stderr)."""
    from roomful import report

    if hosts:
        rows = [[_label(host, entries), host.address, host.port_state] for host in hosts]
        print_table(rows, ["host", "address", f"port {port}"])
    sys.stdout.flush()
    words = [f"{len(found.hosts)} up"]
    if len(hosts) < len(found.hosts):
        words.append(f"{len(hosts)} of these fit{'s' if len(hosts) == 1 else ''} --match")
    if any(host.port_state == "unknown" for host in hosts):
        words.append(f"the report does not tell whether port {port} answers")
    else:
        words.append(f"{len(entries)} answer{'s' if len(entries) == 1 else ''} on port {port}")
    asked = (
        f"{found.addresses:,} addresses asked in {report.duration(found.seconds)}" if found.addresses else "report"
    )
    print(f"{asked}: {', '.join(words)}", file=sys.stderr)
    for note in found.notes:
        print(f"note: {report.printable(note)}", file=sys.stderr)
    for line in _update_lines(update) if update else ():
        print(line, file=sys.stderr)


def _show_json(
    found: Discovery, hosts: Sequence[UpHost], entries: Mapping[str, Host], port: int, update: ListUpdate | None
) -> None:
    from roomful import report

    rows = [
        {"host": _label(host, entries), "address": host.address, "name": host.name, "state": host.port_state}
        for host in hosts
    ]
    document = {
        "addresses": found.addresses,
        "seconds": round(found.seconds, 3),
        "port": port,
        "up": len(hosts),
        "answering": len(entries),
        "notes": found.notes,
        "list": update.as_json() if update else None,
        "hosts": rows,
    }
    print(report.to_json(document))


def _label(host: UpHost, entries: Mapping[str, Host]) -> str:
    return entries[host.address].label if host.address in entries else host.name or host.address


def _update_lines(update: ListUpdate) -> list[str]:
    from roomful.report import printable

    if not update.count:
        return [f"{_shown(update.path)}: not written, there is no host for it"]
    lines = [
        f"{_shown(update.path)}: {update.count} hosts ({len(update.added)} added, {len(update.removed)} removed)"
    ]
    for what, labels in (
        ("removed", update.removed),
        ("on the list but not found, kept (--prune removes them)", update.missing),
    ):
        if labels:
            more = f" and {len(labels) - NAMES_SHOWN} more" if len(labels) > NAMES_SHOWN else ""
            lines.append(printable(f"{what}: {', '.join(labels[:NAMES_SHOWN])}{more}"))
    return lines


def _shown(path: Path) -> str:
    """Return a path as short as it can be written here."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@step(
    name="filter",
    help={
        "output": "host list for the hosts that pass; with their lines as they are in the list of --hosts",
        "strict": "exit code 1 if any host does not pass",
        "max_failed": "exit code 1 if more hosts than this do not pass: a number or a share (10%)",
    },
)
def filter_hosts(
    c: Context,
    hosts: str = "",
    exclude: str = "",
    output: str = "",
    strict: bool = False,
    json: bool = False,
    max_failed: str = "100%",
    accept_new_host_keys: bool = False,
) -> None:
    """Hosts: keep those that let you in with your key, without a password.

    Logs in to each host once, in batch mode: nothing ever asks for a password. Each host that does not pass is shown
    with its reason. That some do not is what this task is for, so the exit code is 0 if at least one passes; --strict
    and --max-failed change that. A host whose key is not known yet does not pass, unless --accept-new-host-keys.

    Example:
        inv filter --hosts n7
        inv filter --hosts n7 --output passwordless
        inv discover --network 10.0.0.0/24 --output all filter --hosts all --output mylab
    """
    from roomful import progress, report
    from roomful.access import check_access, check_output, write_list

    limit = "0" if strict else max_failed
    settings, chosen = begin(c, hosts, exclude, limit, accept_new_host_keys=accept_new_host_keys)
    path = check_output(output, hosts, settings, chosen) if output else None
    with progress.hosts("logging in", len(chosen)) as on_outcome:
        outcomes = check_access(chosen, settings, on_outcome)
    learn(settings, "filter", outcomes)
    passed = [outcome.host for outcome in outcomes.ok]
    interrupted = any(outcome.reason == "interrupted" for outcome in outcomes)
    written = path if passed and not interrupted else None
    if written:
        write_list(written, hosts, settings, passed)
    summary = {"list": str(written) if written else None}
    if json:
        print(report.outcomes_json(outcomes, None, summary))
    told = json or show_table(outcomes)
    sys.stdout.flush()
    again = current_call().line(hosts=report.host_spec(outcome.host for outcome in outcomes.not_ok), output="")
    explain_names(outcomes)
    lines = report.recap(outcomes, again, detailed=not told)
    if path:
        dropped = f"{len(passed)} hosts, {len(outcomes.not_ok)} dropped"
        lines.append(f"{_shown(path)}: {dropped if written else 'not written'}")
    print("\n".join(lines), file=sys.stderr)
    if interrupted:
        raise Exit(code=130)
    if not passed or not outcomes.tolerated(limit):
        raise Exit(code=1)
