"""An experiment that is run again when what it needs is not there yet."""

from __future__ import annotations

import config

from roomful.experiments import Action, ServerList, counter, log, reg_exp

attempts = counter(1)


@reg_exp(servers=config.servers[:1], max_restarts=5, raise_on_rc=False)
def flaky(servers: ServerList) -> Action | None:
    """Succeed the third time."""
    attempt = next(attempts)
    code = servers[0].run_cmd(f"test {attempt} -ge 3").wait()
    if code != 0:
        log(f"attempt {attempt} ended with {code}")
        return Action.RESTART
    return None
