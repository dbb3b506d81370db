"""Processes of this machine that work for one, and end with it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def pool(
    count: int, prepare: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()
) -> ProcessPoolExecutor:
    """Some processes, started afresh: a fork of a process with threads may hang.

    They end when this process does, however that ends.

    Args:
        prepare: called once in each with ``arguments``; importable.
    """
    from multiprocessing import get_context

    return ProcessPoolExecutor(
        count,
        mp_context=get_context("spawn"),
        initializer=_begin,
        initargs=(prepare, arguments),
    )


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Processes that are started inside never see an interrupt; one of this process waits.

    An interrupt goes to all processes of a terminal: theirs would be a trace each, and what stops
    them is the process that started them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    # Starting it lets interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def stop(workers: ProcessPoolExecutor) -> None:
    """Ends the processes at once; nobody takes what they still do."""
    running = list((getattr(workers, "_processes", None) or {}).values())
    manager = getattr(workers, "_executor_manager_thread", None)
    workers.shutdown(wait=False, cancel_futures=True)
    for process in running:
        process.terminate()
    # The interpreter wakes it up at the end, through a pipe that it may be closing just then.
    if manager is not None:
        manager.join(timeout=5)


def _begin(prepare: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    import threading
    from multiprocessing import connection, parent_process

    parent = parent_process()
    if parent is not None:
        sentinel = parent.sentinel

        def watch() -> None:
            connection.wait([sentinel])
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)
