"""A command that asks questions: the experiment answers when it is asked."""

from __future__ import annotations

import config

from roomful.experiments import Console, ServerList, SubstrMatcher, reg_exp

ASK = """\
echo 'your name?'; read -r name
echo 'how many?'; read -r count
for i in $(seq "$count"); do echo "hello $name"; done
"""


@reg_exp(servers=config.servers[:1])
def dialogue(servers: ServerList) -> None:
    """Wait for each question, then answer it."""
    name, count = SubstrMatcher("your name?"), SubstrMatcher("how many?")
    command = servers[0].run_cmd(ASK, stdout=[name, count, Console(fmt="it says: %s")])
    name.wait()
    command.stdin("Ada\n")
    count.wait()
    command.stdin("2\n", close=True)
    command.wait()
