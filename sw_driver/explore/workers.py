"""Who does the tasks: this process, all cores of this machine, or a Dask cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from rtl_gen import processes
from rtl_gen.errors import InputError, ToolError
from sw_driver.explore.measure import Task, run, store

Done = Callable[[Task, dict[str, Any]], None]
"""Called in this process with each task's result, as they come."""


class Workers(Protocol):
    """Does tasks in any order."""

    def do(self, tasks: Sequence[Task], done: Done) -> None:
        """Every task, ``done`` called once for each."""

    def close(self) -> None:
        """Stops what runs."""


def workers(jobs: int | None = None, scheduler: str | None = None) -> Workers:
    """Workers as asked for: all cores of this machine unless said otherwise.

    Args:
        jobs: processes; 1 does everything in this one. scheduler: address of a Dask scheduler.

    Raises:
        InputError: both are given, or ``jobs`` is no number of processes.
        ToolError: the cluster cannot be reached, or Dask is not installed.
    """
    if scheduler is not None:
        if jobs is not None:
            raise InputError("--jobs: the cluster has workers of its own; give one of the two")
        return Cluster(scheduler)
    if jobs is not None and not 1 <= jobs <= 1024:
        raise InputError(f"--jobs: must lie in [1, 1024], got {jobs}")
    count = processes.cores() if jobs is None else jobs
    return Here() if count == 1 else Processes(count)


class Here:
    """One task after another in this process."""

    def do(self, tasks: Sequence[Task], done: Done) -> None:
        for task in tasks:
            done(task, run(task))

    def close(self) -> None:
        return


def _interruptible() -> None:
    """A process that has begun takes interrupts again: tools that it starts inherit that."""
    if not hasattr(signal, "pthread_sigmask"):
        return
    if signal.SIGINT in signal.sigpending():
        os._exit(130)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


class Processes:
    """Tasks on several processes of this machine.

    A process that dies takes the whole pool with it. The tasks that were under way are then done
    again one at a time, so that the one that kills its process is known and the others are done.

    Args:
        count: processes. work: what is done with a task, importable.
    """

    def __init__(self, count: int, work: Callable[[Task], dict[str, Any]] = run):
        self._count = count
        self._work = work
        self._pool: ProcessPoolExecutor | None = None

    def do(self, tasks: Sequence[Task], done: Done) -> None:
        left = self._together(tasks, done, self._count)
        for task in left:
            if self._together([task], done, 1):
                done(task, {"error": "its process died (killed, or out of memory)"})
        if left:
            self.close()  # the next tasks have a whole pool again

    def _together(self, tasks: Sequence[Task], done: Done, count: int) -> list[Task]:
        """Tasks at once; those that are left when a process died."""
        if self._pool is None:
            self._pool = processes.pool(count, _interruptible)
        waiting: dict[Future[dict[str, Any]], Task] = {}
        left: list[Task] = []
        try:
            # Submitting starts the processes: an interrupt before they have begun would be a trace.
            with processes.uninterrupted():
                for task in tasks:
                    waiting[self._pool.submit(self._work, task)] = task
        except BrokenProcessPool:
            left += tasks[len(waiting) :]
        while waiting:
            ready, _ = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ready:
                task = waiting.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    left.append(task)
                else:
                    done(task, result)
        if left:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        return left

    def close(self) -> None:
        if self._pool is None:
            return
        # Of an interrupted run some are at work, which may take minutes.
        processes.stop(self._pool)
        self._pool = None


class Cluster:
    """Tasks on a Dask cluster, whose workers have this project installed.

    Args:
        address: of the scheduler, ``tcp://host:8786``.
    """

    def __init__(self, address: str):
        try:
            from distributed import Client
        except ImportError:
            raise ToolError(
                "dask", "a cluster needs the extra explore: pip install 'rtlgen[explore]'"
            ) from None
        try:
            self._client: Any = Client(address, timeout="10s")
        except (OSError, TimeoutError, ValueError) as error:
            raise ToolError("dask", f"no scheduler at {address}: {error}") from None

    def do(self, tasks: Sequence[Task], done: Done) -> None:
        from distributed import as_completed

        futures = {
            # A worker that dies is replaced by another three times, then the task has failed.
            self._client.submit(run, task, key=f"{task.kind}-{task.key}"): task
            for task in tasks
        }
        for future in as_completed(futures):
            task = futures[future]
            error = future.exception()
            result = {"error": f"{type(error).__name__}: {error}"} if error else future.result()
            if "error" not in result:
                store(task, result)
            done(task, result)
            future.release()

    def close(self) -> None:
        self._client.close()


def unique(tasks: Iterable[Task]) -> list[Task]:
    """Tasks of one key once, in order."""
    return list({task.key: task for task in tasks}.values())
