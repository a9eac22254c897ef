"""The task queue as the controller uses it: submit, look, wait, change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from roomful.agent import leases
from roomful.agent.task import TaskSpec
from roomful.errors import InputError
from roomful.queue_reader import QueueReader, pages_of
from roomful.queue_wire import host_of
from roomful.records import ClientRecord, Counts, Output, State, SubmitReport, TaskRecord, Try
from roomful.submitter import Submitter

__all__ = [
    "ClientRecord", "Counts", "Output", "Queue", "State", "SubmitReport", "TaskRecord", "TaskSpec", "Try",
]  # fmt: skip


class Queue(QueueReader):
    """A cluster's queue. Every change is one atomic step on the server.

    All methods raise ServerError when the server cannot be reached or refuses.
    """

    # -- adding -------------------------------------------------------------------------------------------------

    def submit(
        self,
        specs: Iterable[TaskSpec | bytes],
        *,
        allow_duplicates: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> SubmitReport:
        """Add tasks; on return they are on the server's disk (see ``SubmitReport.durable``).

        ``specs`` must have passed ``TaskSpec.check``; bytes are what ``encode_task`` made of one that has.
        ``progress`` hears how many have been taken so far.
        A duplicate has the same kind, command, env, cwd, stdin and outputs as a task that is todo, running or done.
        """
        with self._answering():
            return Submitter(self._redis, self.scripts, allow_duplicates, progress, self.data).submit(specs)

    # -- changing -----------------------------------------------------------------------------------------------

    def cancel(self, ids: Iterable[int] | None = None) -> int:
        """Cancel tasks that wait or run (None: all of them), and return how many; their processes are killed."""
        return self._each("cancel", ids, ("todo", "running"))

    def retry(self, ids: Iterable[int] | None = None) -> int:
        """Let failed and cancelled tasks (None: all failed ones) wait again, and return how many."""
        return self._each("retry", ids, ("failed",))

    def forget(self, ids: Iterable[int] | None = None) -> int:
        """Remove tasks that have ended (None: all that are done), with their outputs, and return how many."""
        return self._each("forget", ids, ("done",))

    def requeue_host(self, host: str) -> int:
        """Take the tasks that run on a host and let them wait again; return how many."""
        with self._answering():
            return int(self.scripts.call("requeue_host", host))

    def dismiss(self, host: str) -> int:
        """Let the agents of a host go as if they had said that they stop; return how many tasks wait again."""
        with self._answering():
            agents: Any = self._redis.hkeys(self.keys.agents)
            names = [agent.decode() for agent in agents]
            return sum(int(self.scripts.call("leave", name)) for name in names if host_of(name) == host)

    def drain(self, hosts: Iterable[str], *, resume: bool = False) -> int:
        """Let hosts finish what they run and take nothing new (or, with ``resume``, take again)."""
        with self._answering():
            return int(self.scripts.call("drain", "0" if resume else "1", *hosts))

    def reset(self) -> int:
        """Remove every task and result, and return how many; what runs is killed. Agents and settings stay."""
        with self._answering():
            return int(self.scripts.call("reset"))

    def configure(self, values: Mapping[str, Any], host: str = "") -> None:
        """Change live settings, for one host or for all; None removes one. Agents follow within a heartbeat.

        Names and values are those of ``roomful.agent.tuning``; raises InputError for others.
        """
        from roomful.agent.tuning import check_setting

        arguments: list[str] = []
        for name, value in values.items():
            try:
                text = "" if value is None else check_setting(name, value)
            except ValueError as error:
                raise InputError(str(error), where="clients-config") from None
            arguments += [f"{name}@{host}" if host else name, text]
        with self._answering():
            self.scripts.call("configure", *arguments)

    def settings(self) -> dict[str, str]:
        """Return the live settings that were changed: ``NAME`` or ``NAME@HOST`` to value."""
        with self._answering():
            values: Any = self._redis.hgetall(self.keys.config)
        return {key.decode(): value.decode() for key, value in sorted(values.items()) if key != b"version"}

    def expire(
        self,
        *,
        lease_seconds: float = leases.LEASE_SECONDS,
        silence_seconds: float = leases.SILENCE_SECONDS,
        alive_hosts: Iterable[str] = (),
    ) -> list[leases.Lost]:
        """Give back the tasks of dead agents, as the keeper does each second (see ``leases.expire``)."""
        with self._answering():
            return leases.expire(self.scripts, lease_seconds, silence_seconds, alive_hosts=alive_hosts)

    def late(self) -> dict[str, bytes]:
        """Return the reports that came too late: ``ID:ATTEMPT`` to the agent and its report."""
        with self._answering():
            values: Any = self._redis.hgetall(self.keys.late)
        return {key.decode(): value for key, value in values.items()}

    def _each(self, script: str, ids: Iterable[int] | None, states: Sequence[State]) -> int:
        if ids is None:
            ids = sorted({task_id for state in states for task_id in self._ids_of(state)})
        count = 0
        for page in pages_of(ids):
            with self._answering():
                count += int(self.scripts.call(script, *page))
        return count
