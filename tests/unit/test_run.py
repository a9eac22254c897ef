"""What a command is wrapped in on a host."""

from __future__ import annotations

from pathlib import Path

import pytest

from roomful.login_shell import command_line
from roomful.run import Job


def test_a_wrapped_command_costs_a_host_no_further_shell(tmp_path: Path) -> None:
    """A newline in the command line would have login_shell.py start one more: a twentieth of a host's work."""
    script = tmp_path / "x.sh"
    script.write_text("echo x\n")
    jobs = [Job.of_command(["true"]), Job.of_command(["true; true"]), Job.of_script(script, [])]
    for job in [*jobs, Job.of_script(script, [], detach=True)]:
        assert "\n" not in command_line(job.argv())
        assert "printf" not in command_line(job.argv())


@pytest.mark.parametrize(
    ("words", "line", "rest"),
    [(["uptime; nproc"], "uptime; nproc", []), (["echo", "a b", "$x"], "", ["echo", "a b", "$x"])],
)
def test_one_word_is_a_line_and_several_are_a_program(words: list[str], line: str, rest: list[str]) -> None:
    job = Job.of_command(words, b"abc")
    assert job.argv()[-2 - len(rest) :] == [line, "3", *rest]
