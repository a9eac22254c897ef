"""A roomful of hosts on one machine, each with a real SSH server: for trying things out and for the tests.

``up(LabOptions(count=8))`` brings a lab up, ``down(name)`` removes every trace of it, ``fail`` and ``heal`` break its
hosts and mend them. Importing this costs little; nothing here touches the user's ``~/.ssh``.
"""

from __future__ import annotations

from roomful.lab.faults import FAULTS, fail, heal
from roomful.lab.lifecycle import down, find_by_network, get, labs, unfinished, up
from roomful.lab.model import Lab, LabHost, LabOptions, host_entry
from roomful.lab.netns import enter, inside

__all__ = [
    "FAULTS",
    "Lab",
    "LabHost",
    "LabOptions",
    "down",
    "enter",
    "fail",
    "find_by_network",
    "get",
    "heal",
    "host_entry",
    "inside",
    "labs",
    "unfinished",
    "up",
]
