"""Work on many hosts at once, over SSH.

Every fan-out is a Fabric ThreadingGroup (`HostGroup`). What differs from Fabric's own: host keys are checked against
known_hosts, private keys and settings are loaded once for the whole group, one selector dials all hosts so that dead
ones never hold a thread, key exchanges are bounded, and each host ends in one named outcome.
"""

from __future__ import annotations

import contextlib
import queue
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from socket import socket
from typing import Any, TypeVar

import fabric
import paramiko

from roomful.connection import Completed, HostConnection, Shared, classified, failure_of
from roomful.dialer import Dialer
from roomful.endpoint import endpoint_of
from roomful.gateway import shared_ways
from roomful.head_start import HeadStart
from roomful.hosts import Host
from roomful.outcome import UNREACHABLE_REASONS, HostFailure, Outcome, Outcomes, Unheard
from roomful.secret import Secret
from roomful.settings import Settings

T = TypeVar("T")

#: The work that a fan-out does on each host.
Work = Callable[[HostConnection], T]


class HostGroup(fabric.ThreadingGroup):  # type: ignore[misc]  # fabric is untyped
    """Fabric's ThreadingGroup with our scheduling: threads start as hosts answer, outcomes come as they happen."""

    def __init__(
        self,
        hosts: Sequence[Host],
        settings: Settings,
        password: Secret | None = None,
        head_start: HeadStart | None = None,
    ) -> None:
        self.shared = Shared(settings, password)
        self.settings = settings
        self._head_start = head_start
        super().__init__()
        endpoints = head_start.endpoints if head_start else [endpoint_of(host, settings) for host in hosts]
        self.extend(HostConnection(*each, self.shared) for each in zip(hosts, endpoints, strict=True))

    def _do(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Run Fabric's group methods (run, put, get ...) with the same scheduling and its own result types."""
        outcomes = self.each(lambda connection: getattr(connection, method)(*args, **kwargs))
        results = fabric.GroupResult()
        for connection, outcome in zip(self, outcomes, strict=True):
            results[connection] = (
                outcome.value if outcome.status == "ok" else HostFailure(outcome.reason or "error", outcome.detail)
            )
        if outcomes.not_ok:
            raise fabric.exceptions.GroupException(results)
        return results

    def each(
        self,
        work: Work[T],
        on_outcome: Callable[[Outcome[T]], None] | None = None,
        on_interrupt: Callable[[Sequence[Host]], None] | None = None,
        log_in: bool = True,
    ) -> Outcomes[T]:
        """Do ``work`` on every host; returns the outcomes in the order of the hosts.

        Without ``log_in`` the connection that ``work`` gets is dialled, and its keys are not exchanged yet.
        ``on_outcome`` is called in this thread for each outcome as it happens. The first KeyboardInterrupt calls
        ``on_interrupt`` with the hosts that are pending, the next one (or the first without it) ends the work on
        them; their outcome is ``interrupted``.
        """
        _allow_open_files(4 * len(self) + 200)
        start = time.monotonic()
        done: queue.SimpleQueue[tuple[int, Outcome[T] | Unheard]] = queue.SimpleQueue()
        slots = threading.BoundedSemaphore(max(1, int(self.settings.parallel)))
        addresses = [connection.endpoint.address for connection in self]

        def worker(index: int) -> None:
            with slots:
                try:
                    done.put((index, _attempt(self[index], work, start, log_in)))
                except Unheard as unheard:
                    done.put((index, unheard))

        def ready(index: int, answer: socket | HostFailure) -> None:
            if isinstance(answer, HostFailure):
                done.put((index, _outcome_of(self[index].entry, answer, start)))
                return
            self[index].use_socket(answer)
            threading.Thread(target=worker, args=(index,), daemon=True, name=f"host {index}").start()

        with shared_ways(addresses, self.settings.login_timeout_seconds) as ways:
            begun = self._head_start.dialer if self._head_start else None
            dialer = begun or Dialer(ways, self.settings.connect_timeout_seconds)
            self._head_start = None
            threading.Thread(target=dialer.run, args=(ready,), daemon=True, name="dialer").start()
            return self._taken_in(done, on_outcome, on_interrupt, dialer, start)

    def _taken_in(
        self,
        done: queue.SimpleQueue[tuple[int, Outcome[T] | Unheard]],
        on_outcome: Callable[[Outcome[T]], None] | None,
        on_interrupt: Callable[[Sequence[Host]], None] | None,
        dialer: Dialer,
        start: float,
    ) -> Outcomes[T]:
        outcomes: dict[int, Outcome[T]] = {}

        def take() -> None:
            while len(outcomes) < len(self):
                index, outcome = done.get()
                if isinstance(outcome, Unheard):
                    raise outcome.error
                outcomes[index] = outcome
                if on_outcome:
                    on_outcome(outcome)

        try:
            try:
                take()
            except KeyboardInterrupt:
                if on_interrupt is None:
                    raise
                on_interrupt([connection.entry for i, connection in enumerate(self) if i not in outcomes])
                take()
        except KeyboardInterrupt:
            dialer.stop()
            for index, connection in enumerate(self):
                if index not in outcomes:
                    seconds = time.monotonic() - start
                    outcomes[index] = Outcome(connection.entry, "failed", "interrupted", seconds=seconds)
                    connection.close()
        except BaseException:
            # Nobody hears how it goes on.
            dialer.stop()
            for connection in self:
                connection.close()
            raise
        return Outcomes(outcomes[index] for index in range(len(self)))


def fan_out(
    hosts: Sequence[Host],
    work: Work[T],
    settings: Settings,
    on_outcome: Callable[[Outcome[T]], None] | None = None,
) -> Outcomes[T]:
    """Do ``work`` on every host in parallel and return one outcome a host, in the hosts' order.

    ``work`` gets an open HostConnection, in a thread of its own; what it returns becomes the outcome's value, and a
    HostFailure that it raises the outcome's reason. A host that fails never hides the others.
    """
    return HostGroup(hosts, settings).each(work, on_outcome)


@contextlib.contextmanager
def connect(host: Host, settings: Settings) -> Iterator[HostConnection]:
    """Open a connection to one host for the time of a ``with`` block; raises HostFailure."""
    connection = HostConnection(host, endpoint_of(host, settings), Shared(settings))
    try:
        connection.open()
        yield connection
    finally:
        connection.close()


def _attempt(connection: HostConnection, work: Work[T], start: float, log_in: bool) -> Outcome[T]:
    try:
        if log_in:
            connection.open()
        value = work(connection)
        return Outcome(connection.entry, "ok", value=value, seconds=time.monotonic() - start)
    except HostFailure as failure:
        return _outcome_of(connection.entry, failure, start)
    except (paramiko.SSHException, OSError, EOFError) as error:
        return _outcome_of(connection.entry, classified(error), start)
    except Unheard:
        raise
    except Exception as error:
        # A defect in the work itself must not take the other hosts' outcomes with it.
        return _outcome_of(connection.entry, HostFailure("error", f"{type(error).__name__}: {error}"), start)
    finally:
        connection.close()


def _outcome_of(host: Host, failure: HostFailure, start: float) -> Outcome[Any]:
    status = "unreachable" if failure.reason in UNREACHABLE_REASONS else "failed"
    seconds = time.monotonic() - start
    return Outcome(host, status, failure.reason, failure.detail, seconds=seconds)  # type: ignore[arg-type]


def _allow_open_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


__all__ = [
    "Completed",
    "HostConnection",
    "HostGroup",
    "Shared",
    "connect",
    "failure_of",
    "fan_out",
]
