"""The files in /etc of a lab host: an ordinary machine with one ordinary user. Pure."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterable

from roomful.lab.model import STUDENT, STUDENT_ID, Lab, LabHost

#: The first id that is no longer the system's own (login.defs(5)), and the one that stands for nobody.
FIRST_ORDINARY_ID = 1000
NOBODY_ID = 65534
#: In the second field of shadow(5): no password fits. "!" would make sshd without PAM call the account locked.
NO_PASSWORD = "*"


def passwd(system: str) -> str:
    """Return /etc/passwd: the system's own accounts, without a shell, and the student."""
    lines = []
    for fields in _records(system, 7):
        if _is_system(fields[2]):
            shell = "/bin/bash" if fields[0] == "root" else "/usr/sbin/nologin"
            home = "/root" if fields[0] == "root" else fields[5]
            lines.append(":".join([fields[0], "x", fields[2], fields[3], fields[4], home, shell]))
    lines.append(f"{STUDENT}:x:{STUDENT_ID}:{STUDENT_ID}:Student:/home/{STUDENT}:/bin/bash")
    return _text(lines)


def group(system: str) -> str:
    """Return /etc/group: the system's own groups, without members, and the student's."""
    lines = [f"{fields[0]}:x:{fields[2]}:" for fields in _records(system, 4) if _is_system(fields[2])]
    return _text([*lines, f"{STUDENT}:x:{STUDENT_ID}:"])


def shadow(accounts: str, password: str = "") -> str:
    """Return /etc/shadow for an /etc/passwd: only the student may have a password, and nobody is locked."""
    fields = {STUDENT: hashed(password)} if password else {}
    names = [line.split(":")[0] for line in accounts.splitlines()]
    return _text(f"{name}:{fields.get(name, NO_PASSWORD)}:19000:0:99999:7:::" for name in names)


def hashed(password: str) -> str:
    """Return what shadow(5) holds of a password, as sshd's own library makes it (crypt(3); Python 3.13 has none)."""
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    return bytes(crypt(password.encode(), b"$6$roomfullab$")).decode()


def hosts(lab: Lab) -> str:
    """Return /etc/hosts of every host and of the controller: each host of the lab by both its names."""
    lines = ["127.0.0.1 localhost", f"{lab.controller_address} controller.{lab.name}.test controller"]
    return _text([*lines, *(f"{host.address} {host.full_name} {host.name}" for host in lab.hosts)])


def machine_id(host: LabHost) -> str:
    """Return /etc/machine-id: 32 hexadecimal digits that stay the same for the host's life."""
    return hashlib.sha256(host.full_name.encode()).hexdigest()[:32] + "\n"


def _records(text: str, fields: int) -> Iterable[list[str]]:
    for line in text.splitlines():
        found = line.split(":")
        if len(found) == fields:
            yield found


def _is_system(identity: str) -> bool:
    return int(identity) < FIRST_ORDINARY_ID or int(identity) == NOBODY_ID


def _text(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
