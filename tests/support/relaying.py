"""A project with a payload for the hosts of a lab, which pass it on to each other."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from roomful.lab import Lab
from tests.support.lab import settings_for, ssh
from tests.support.workdirs import make_tree

ROOT = Path(__file__).parents[2]
PAYLOAD_BYTES = 3_000_000


class Project:
    """A project with a payload, and five hosts of which some may log in on the others."""

    def __init__(self, room: Lab, folder: Path, workdir: str) -> None:
        self.room, self.folder, self.workdir = room, folder, workdir
        make_tree(folder / "resources", {"run.py": "one", "data/a": "a"})
        (folder / "resources" / "data" / "big").write_bytes(os.urandom(PAYLOAD_BYTES))
        (folder / "resources" / "data" / "big").chmod(0o750)
        (folder / "tasks.py").write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom fabfile import ns\n")
        settings_for(room, folder)

    def deploy(self, *words: str) -> tuple[list[dict[str, Any]], str]:
        """Deploy; returns the hosts' rows and what was said."""
        process = self.start(*words)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
        assert out, err
        rows: list[dict[str, Any]] = json.loads(out)["hosts"]
        return rows, err

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Begin to deploy, as a process of its own."""
        argv = [sys.executable, "-m", "invoke", "deploy", "--json", "--hosts", "lab", *words]
        environment = {**os.environ, "INVOKE_ROOMFUL_WORKDIR": self.workdir}
        return subprocess.Popen(
            argv, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def keys(self, accepted: str) -> None:
        """Give hosts a key to the others, or take it away: ``accepted`` holds the last digits of those with one."""
        key = base64.b64encode((self.room.directory / "id_ed25519").read_bytes()).decode()
        for host in self.room.hosts:
            has = host.name[-1] in accepted
            make = f"umask 077; mkdir -p .ssh; echo {key} | base64 -d > .ssh/id_ed25519"
            assert ssh(self.room, host.name, make if has else "rm -f .ssh/id_ed25519").returncode == 0

    def sums(self) -> set[str]:
        command = f"cd {self.workdir.removeprefix('~/')} && sha256sum run.py data/big && stat -L -c %a data/big"
        return {ssh(self.room, host.name, command).stdout for host in self.room.hosts}

    def bytes_gone_up(self) -> int:
        """How many bytes have left the controller so far, of everything."""
        counter = ["ip", "netns", "exec", str(self.room.netns), "cat", "/sys/class/net/eth0/statistics/tx_bytes"]
        return int(subprocess.run(counter, capture_output=True, text=True, check=True).stdout)
