# SPDX-License-Identifier: Apache-2.0
"""Runs of a study as tasks of a Ray cluster: `luthier compare STUDY --on ray`, with the extra `ray`.

Each run is a task of one processor, and of one GPU where the cluster has any. The study's folder, and the files that
its recipes name, must be at the same place on every machine: what a run leaves is written there, and read from there.
A run that fails, or whose machine is lost, is shown as one; the others go on. Ctrl-C lets runs save and stop.

`RAY_ADDRESS` names the cluster; without it one is begun on this machine.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.core.errors import Interrupted, MissingExtra, RunFailed
from luthier.engine.signals import StopRequest
from luthier.study.results import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from luthier.study.design import Planned

_LOOK = 0.5  # seconds between looks at Ctrl-C
_PATIENCE = 600.0  # seconds for runs to save after Ctrl-C


def package() -> Any:
    """Ray.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtra("--on ray", "ray", "ray") from None
    return ray


@dataclass(kw_only=True)
class Cluster:
    """A connection to a cluster, as :class:`luthier.study.workers.Workers` are to processes here.

    Attributes:
        work: What each run needs to know besides its plan; picklable.
        ray: The package.
    """

    work: Any
    ray: Any = None

    def __enter__(self) -> Cluster:
        self.ray = ray = package()
        self._began = not ray.is_initialized()
        if self._began:
            # Tasks import this very code; Ray's own dashboard and reports about use are not needed for it.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(log_to_driver=False, include_dashboard=False, logging_level="warning", runtime_env=_environment())
        return self

    def __exit__(self, *_: object) -> None:
        if self._began:
            self.ray.shutdown()

    @property
    def places(self) -> int:
        """How many runs the cluster can do at a time."""
        found = self.ray.cluster_resources()
        return max(1, int(found.get("GPU", 0) or found.get("CPU", 1)))

    def do(self, plans: Sequence[Planned], told: Callable[[Planned, Run | None], None]) -> None:
        """Do every run. Arguments as for `Workers.do`.

        Raises:
            Interrupted: Ctrl-C or SIGTERM; the runs under way were saved.
        """
        gpus = 1 if self.ray.cluster_resources().get("GPU") else 0
        task = self.ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_one)
        work, place = self.ray.put(replace(self.work, at_a_time=self.places)), os.getcwd()
        waiting, busy = list(plans), dict[Any, "Planned"]()
        with StopRequest() as stop:
            while waiting or busy:
                while waiting and len(busy) < self.places and not stop.asked:
                    planned = waiting.pop(0)
                    told(planned, None)
                    busy[task.remote(place, work, planned)] = planned
                if stop.asked:
                    self._stop(busy, told)
                    raise Interrupted("study", "stopped", "the runs under way were saved", "the same command goes on")
                done, _ = self.ray.wait(list(busy), timeout=_LOOK)
                for reference in done:
                    planned = busy.pop(reference)
                    told(planned, self._result(reference, planned))

    def _stop(self, busy: dict[Any, Planned], told: Callable[[Planned, Run | None], None]) -> None:
        """Let each run save; one that ended meanwhile is told of."""
        for reference in busy:
            self.ray.cancel(reference)
        self.ray.wait(list(busy), num_returns=len(busy), timeout=_PATIENCE)
        for reference, planned in busy.items():
            with suppress(self.ray.exceptions.RayError):
                if (run := self.ray.get(reference, timeout=_LOOK)) is not None:
                    told(planned, run)

    def _result(self, reference: Any, planned: Planned) -> Run:
        try:
            found: Run = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            said = f"{planned.folder}: its task was lost ({lines[-1]}); the same command does this run again"
            return Run(
                variant=planned.variant, seed=planned.seed, folder=planned.folder, summary={}, right={}, error=said
            )
        return found


def _one(place: str, work: Any, planned: Planned) -> Run | None:
    """What a task does; None where it was stopped and saved."""
    from luthier.study.one import one

    try:
        os.chdir(place)  # paths of a recipe are relative to where the command was given
    except OSError:
        received = f"this machine has no folder {place}"
        raise RunFailed(f"ray task on {os.uname().nodename}", received, "the same files on every machine") from None
    try:
        return one(work, planned)
    except (Interrupted, KeyboardInterrupt):
        return None


def _environment() -> dict[str, Any]:
    """What tasks inherit: where Python finds this package, and how it is told to behave."""
    names = (
        "PYTHONPATH",
        "LUTHIER_HOME",
        "LUTHIER_PLUGINS",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "OMP_NUM_THREADS",
        "TOKENIZERS_PARALLELISM",
    )
    return {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}
