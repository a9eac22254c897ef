"""Word about experiments: the log, and webhooks."""

from __future__ import annotations

import http.server
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.lab import Lab
from tests.support.experiments import Experiments
from tests.support.lab import lab, rootless_lab

__all__ = ["lab", "rootless_lab"]


@pytest.fixture
def project(rootless_lab: Lab, tmp_path: Path) -> Experiments:
    return Experiments(tmp_path, rootless_lab)


def test_the_log_goes_to_a_file_in_full(project: Experiments) -> None:
    project.write(
        "exp.py",
        "@reg_exp(servers=servers[:1])\n"
        "def exp(servers): servers[0].run_cmd('echo said', stdout=Console('>%s')).wait()\n",
    )
    quiet = project.run("exp.py", "--log", "run.log")
    loud = project.run("exp.py", "--log", "run.log", "--verbose")
    log = (project.folder / "run.log").read_text()
    assert log.count("CONSOLE >said") == 2
    assert len(re.findall(r"lab01: 'echo said' pid=\d+", log)) == 2
    assert "pid=" not in quiet.stderr
    assert "pid=" in loud.stderr


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """An HTTP server that keeps what is posted to it."""
    got: list[tuple[str, bytes]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.headers["Content-Type"], self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(500 if "broken" in self.path else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", got
        server.shutdown()


def test_word_goes_to_a_webhook(project: Experiments, webhook: tuple[str, list[tuple[str, bytes]]]) -> None:
    url, got = webhook
    project.write(
        "exp.py",
        """
@reg_exp(servers=servers[:1], params=ParameterGrid(a=[1, 2]))
def exp(servers, a): assert a == 1
""",
    )
    done = project.run("exp.py", "--slack-webhook", f"{url}/SECRET")
    assert done.returncode == 1
    ((kind, body),) = got
    assert kind == "application/json"
    text = json.loads(body)["text"]
    assert re.match(r"2 experiments: 1 ok, 1 failed in \d", text)
    assert "exp__a=2: AssertionError (exp.py:5)" in text
    assert "results: " in text
    kept = [path.read_text() for path in project.folder.rglob("*.json*")]
    assert not any("SECRET" in content for content in [*kept, done.stdout, done.stderr])


@pytest.mark.parametrize("path", ["/broken", None], ids=["answers 500", "nobody there"])
def test_a_notification_that_fails_only_warns(
    project: Experiments, webhook: tuple[str, list[tuple[str, bytes]]], path: str | None
) -> None:
    project.write("exp.py", "@reg_exp(servers=servers[:1])\ndef exp(servers): pass\n")
    done = project.run("exp.py", "--slack-webhook", webhook[0] + path if path else "http://127.0.0.1:1/SECRET")
    assert done.returncode == 0
    assert "warning: webhook at 127.0.0.1: the notification was not sent" in done.stderr
    assert "SECRET" not in done.stderr
