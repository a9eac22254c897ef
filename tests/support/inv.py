"""Call ``inv`` as a user does: in a project's folder, as a process of its own, with or without a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from roomful.lab import Lab
from tests.support.lab import settings_for

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Project:
    """A user's project in a folder of its own, whose host list ``lab`` is a lab's."""

    root: Path
    environment: Mapping[str, str]

    def inv(self, *words: str, stdin: str = "", timeout: float = 100) -> subprocess.CompletedProcess[str]:
        """Run ``inv WORDS`` without a terminal."""
        return subprocess.run(
            self.argv(words),
            cwd=self.root,
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def json(self, *words: str, code: int = 0) -> Any:
        """Run ``inv WORDS --json`` and return the document that it prints."""
        cut = words.index("--") if "--" in words else len(words)
        done = self.inv(*words[:cut], "--json", *words[cut:])
        assert done.returncode == code, done.stderr + done.stdout
        return json.loads(done.stdout)

    def argv(self, words: Sequence[str]) -> list[str]:
        """Return the command line for ``inv WORDS``."""
        return [sys.executable, "-m", "invoke", *words]

    def on_terminal(self, *words: str, answers: Mapping[str, str], timeout: float = 60) -> tuple[int, str]:
        """Run ``inv WORDS`` on a terminal; each answer is typed when its prompt appears. Returns code and screen."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.root)
            os.execvpe(sys.executable, self.argv(words), dict(self.environment))
        screen, waiting, deadline = b"", dict(answers), time.monotonic() + timeout
        try:
            while time.monotonic() < deadline:
                if not select.select([terminal], [], [], 0.2)[0]:
                    continue
                try:
                    chunk = os.read(terminal, 65536)
                except OSError:
                    break
                if not chunk:
                    break
                screen += chunk
                for prompt in [prompt for prompt in waiting if prompt.encode() in screen]:
                    os.write(terminal, waiting.pop(prompt).encode() + b"\n")
            else:
                os.kill(pid, 9)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), screen.decode(errors="replace")
        finally:
            os.close(terminal)


def project_for(lab: Lab, root: Path, home: Path, **settings: object) -> Project:
    """Make a project in ``root`` that reaches this lab with short deadlines; ``home`` is its user's."""
    values = {"connect_timeout_seconds": 2.5, "login_timeout_seconds": 6.0, "hosts": "lab", **settings}
    settings_for(lab, root)
    (root / "tasks.py").write_text("from fabfile import ns\n\n__all__ = ['ns']\n")
    (root / "invoke.yaml").write_text(json.dumps({"roomful": values}))
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(CHECKOUT), "COLUMNS": "200"}
    return Project(root, environment)
