"""Everything breaks at random while thousands of tasks run; then what was recorded is held against the promises.

``ROOMFUL_CHAOS_SEED`` repeats a run's choices (not its timing), ``ROOMFUL_CHAOS_SECONDS`` makes it longer.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from roomful.bundle import build_bundle
from roomful.errors import ServerError
from roomful.queue import TaskSpec
from roomful.settings import Settings
from tests.support.history import Recorder, Size, problems
from tests.support.nemesis import Cluster, Nemesis
from tests.support.server import clean_up, processes_of

SECONDS = float(os.environ.get("ROOMFUL_CHAOS_SECONDS", "40"))
SEED = int(os.environ.get("ROOMFUL_CHAOS_SEED") or random.randrange(2**32))
SIZES = {"ash": Size(2000, 1024), "elm": Size(3000, 512), "fir": Size(1500, 2048)}
LEASE_SECONDS = 4.0
#: What waits after the last fault must be done within this.
DRAIN_SECONDS = 90.0
#: No more is submitted while more than this waits.
BACKLOG = 300


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="rf-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def cluster(folder: Path, tmp_path: Path) -> Iterator[Cluster]:
    settings = Settings(root=tmp_path, server_directory=str(folder / "server"), lease_seconds=LEASE_SECONDS)
    made = None
    try:
        made = Cluster(folder, settings, SIZES, build_bundle(folder).path)
        with made.queue() as queue:
            values = {"heartbeat_seconds": 0.5, "kill_grace_seconds": 0.5}
            queue.configure({**values, "max_losses": 1000, "elsewhere_wait_seconds": 2})
        yield made
    finally:
        if made is not None:
            made.close()
        clean_up(settings)


class Submitter(threading.Thread):
    """Submits until it is told to stop; what is not acknowledged may or may not be in the queue."""

    def __init__(self, cluster: Cluster, recorder: Recorder, dice: random.Random) -> None:
        super().__init__()
        self._cluster = cluster
        self._recorder = recorder
        self._dice = dice
        self._end = threading.Event()
        self._trouble: BaseException | None = None

    def stop(self) -> None:
        """Stop, and raise what went wrong, if it was more than a server that was away."""
        self._end.set()
        self.join(DRAIN_SECONDS)
        assert not self.is_alive()
        if self._trouble:
            raise self._trouble

    def run(self) -> None:
        number = 0
        while not self._end.is_set():
            try:
                with self._cluster.queue() as queue:
                    while not self._end.wait(0.05):
                        if queue.counts().todo > BACKLOG:
                            continue
                        tasks = [self._task(number + more) for more in range(self._dice.randrange(1, 120))]
                        number += len(tasks)
                        report = queue.submit(tasks)
                        assert report.durable
                        self._recorder.acknowledged.update(report.ids)
            except ServerError:
                self._end.wait(0.2)
            except BaseException as error:
                self._trouble = error
                return

    def _task(self, number: int) -> TaskSpec:
        beats = self._dice.choices((0, 1, 4, 40), (60, 25, 14, 1))[0]
        cpus = self._dice.choices((0.1, 0.25, 0.5, 1, 1.5, 2.5), (30, 30, 20, 15, 4, 1))[0]
        # More than all CPUs' tasks together is asked for now and then: memory is what some of them wait for.
        memory = self._dice.choices((0, 64, 300, 500, 1000), (40, 25, 20, 10, 5))[0]
        # Only the host with the least memory has so many CPUs.
        return self._recorder.task(f"{number}", beats, cpus, min(memory, 500) if cpus > 2 else memory)


@pytest.mark.timeout(SECONDS + 2 * DRAIN_SECONDS + 60)
def test_nothing_is_lost_doubled_or_overcommitted_whatever_breaks(cluster: Cluster, folder: Path) -> None:
    print(f"ROOMFUL_CHAOS_SEED={SEED} ROOMFUL_CHAOS_SECONDS={SECONDS:g}")  # noqa: T201  # to repeat it
    dice = random.Random(SEED)
    recorder = Recorder(folder)
    submitter = Submitter(cluster, recorder, random.Random(dice.random()))
    nemesis = Nemesis(cluster, random.Random(dice.random()))
    submitter.start()
    try:
        nemesis.run(SECONDS)
    finally:
        submitter.stop()
    with cluster.queue() as queue:
        drained = queue.wait(timeout=DRAIN_SECONDS)
        cluster.stop_agents()
        left = [line for line in processes_of(folder).values() if str(folder / "server") not in line]
        history = recorder.history(queue, SIZES, left)
        late = queue.counts().late
    tries = sum(len(record.tries) for record, _ in history.records.values())
    summary = f"{len(history.records)} tasks, {tries} attempts gave way, {late} late; {dict(nemesis.done)}"
    print(summary)  # noqa: T201  # what the run was worth
    found = problems(history)
    assert not found, f"seed {SEED}: {len(found)} problems:\n" + "\n".join(found[:40])
    assert drained
    # There was work, and it was hit.
    assert len(recorder.acknowledged) > 10 * SECONDS
    assert tries > SECONDS / 2
