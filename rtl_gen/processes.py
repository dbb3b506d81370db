"""Processes of this machine that work for one, and end with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
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


def stop(workers: ProcessPoolExecutor) -> None:
    """Ends the processes at once; nobody takes what they still do."""
    running = list((getattr(workers, "_processes", None) or {}).values())
    workers.shutdown(wait=False, cancel_futures=True)
    for process in running:
        process.terminate()


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
