"""Break the hosts of a lab on purpose, one way at a time or several together, and mend them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from roomful.errors import InputError, RoomfulError
from roomful.lab import lifecycle, sshd, store
from roomful.lab.machines import Machines
from roomful.lab.model import Lab, LabHost

#: How a host can fail, and what that is like.
FAULTS = {
    "poweroff": "the power is cut: every process ends at once, in silence; disk and home stay",
    "cut": "the network is cut both ways, in silence; the host goes on by itself",
    "cut-in": "nothing reaches the host any more; what it sends still arrives",
    "cut-out": "nothing from the host arrives any more; it still receives",
    "freeze": "every process stops; the host's kernel still answers",
    "sshd": "the SSH server is killed: connections are refused, logins that are open stay",
    "hang": "connections to port 22 are taken, and never a word is said",
    "disk-full": "no byte is free on the host's disk (needs --disk)",
    "hang-home": "the home hangs, as on a file server that is down: whoever looks into it waits",
    "refuse-key": "the lab's key is no longer let in",
    "host-key": "the host has a new host key, as after a new installation",
}
_CUTS = {"cut": "both", "cut-in": "in", "cut-out": "out"}
#: The host's real key while it shows another.
_KEPT = ".kept"


@dataclass(frozen=True)
class _Site:
    """One host of a lab, and the lab's machines."""

    machines: Machines
    host: LabHost

    @property
    def folder(self) -> Path:
        return self.machines.lab.host_directory(self.host.name)


def fail(name: str, host: str, how: str) -> LabHost:
    """Break a host of the lab ``name`` in one of the ways in FAULTS; twice is once.

    Raises InputError for an unknown lab, host or way, or one that this kind of lab cannot do.
    """
    if how not in FAULTS:
        raise InputError(f"no such failure {how!r}", where="--how", fix=f"choose one of {', '.join(FAULTS)}")
    lab = lifecycle.get(name)
    with store.locked(lab.directory.parent, name):
        site = _site(name, host)
        faults = site.host.faults
        if how in faults:
            return site.host
        if "poweroff" in faults and how != "refuse-key":
            raise InputError(
                "the host is off", where=site.host.name, fix=f"switch it on: inv lab.heal {site.host.name}"
            )
        if "freeze" in faults and how in ("sshd", "hang", "host-key"):
            raise InputError(
                "the host is frozen", where=site.host.name, fix=f"thaw it: inv lab.heal {site.host.name}"
            )
        # Written first: a fail that is killed halfway is still there for heal to undo.
        store.write_faults(site.folder, (*faults, how))
        try:
            _break(site, how)
        except InputError:
            store.write_faults(site.folder, faults)
            raise
        if how == "poweroff":
            # A machine that is off is not also frozen or full: what is kept is what a reboot keeps.
            lasting = tuple(fault for fault in faults if fault in ("refuse-key", "host-key", "disk-full"))
            store.write_faults(site.folder, (*lasting, how))
        return _site(name, host).host


def heal(name: str, host: str) -> LabHost:
    """Undo everything that ``fail`` (or ``off`` and ``refuse_key`` of the options) did to a host.

    Raises InputError for an unknown lab or host.
    """
    lab = lifecycle.get(name)
    with store.locked(lab.directory.parent, name):
        site = _site(name, host)
        for fault in sorted(site.host.faults, key=_healing_order):
            _mend(site, fault)
        if site.machines.init_pid(site.host) is None:
            # However it went off: what may be left of it would be in the way.
            site.machines.switch_off(site.host)
            site.machines.boot([site.host], lambda *_: None)
        site.machines.wait([site.host], lambda *_: None)
        store.write_faults(site.folder, ())
        return _site(name, host).host


def _site(name: str, host: str) -> _Site:
    lab: Lab = lifecycle.get(name)
    return _Site(lifecycle.machines(lab), lab.host(host))


def _break(site: _Site, how: str) -> None:
    machines, host = site.machines, site.host
    if how == "poweroff":
        machines.switch_off(host)
    elif how in _CUTS:
        machines.cut(host, _CUTS[how])
    elif how == "freeze":
        machines.freeze(host)
    elif how == "disk-full":
        machines.fill_disk(host)
    elif how == "hang-home":
        machines.hang_home(host)
    elif how == "refuse-key":
        sshd.write_authorized_keys(machines.lab, host, accept=False)
    elif how == "host-key":
        key = site.folder / "etc" / sshd.HOST_KEY
        for path in (key, _public(key)):
            path.rename(_kept(path))
        sshd.make_keys([key])
        _restart_sshd(site)
    else:
        machines.serve(host, {"sshd": "none", "hang": "mute"}[how])


def _mend(site: _Site, fault: str) -> None:
    machines, host = site.machines, site.host
    if fault in _CUTS:
        machines.rejoin(host)
    elif fault == "freeze":
        machines.thaw(host)
    elif fault == "disk-full":
        machines.free_disk(host)
    elif fault == "hang-home":
        machines.answer_home(host)
    elif fault == "refuse-key":
        sshd.write_authorized_keys(machines.lab, host, accept=True)
    elif fault == "host-key":
        key = site.folder / "etc" / sshd.HOST_KEY
        for path in (key, _public(key)):
            if _kept(path).exists():
                _kept(path).replace(path)
        if machines.init_pid(host) is not None:
            _restart_sshd(site)
    elif fault in ("sshd", "hang"):
        machines.serve(host, "sshd")


def _healing_order(fault: str) -> int:
    """The network and the processes first: all else needs a host that can be spoken to."""
    return 0 if fault in _CUTS or fault == "freeze" else 1


def _restart_sshd(site: _Site) -> None:
    site.machines.serve(site.host, "none")
    try:
        site.machines.serve(site.host, "sshd")
    except RoomfulError:
        # The host may be cut off, too: then its server cannot be seen to answer.
        if not set(site.host.faults) & set(_CUTS):
            raise


def _public(key: Path) -> Path:
    return key.with_name(key.name + ".pub")


def _kept(path: Path) -> Path:
    return path.with_name(path.name + _KEPT)
