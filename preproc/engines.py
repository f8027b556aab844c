"""Many scans at once: processes of this machine (joblib), or the workers of a Dask cluster.

Both call one function on every item and give back the results as they come, in any order. What is written
does not depend on the engine: scans are independent, and every file appears whole. What a worker logs is sent
back with its result and told here, under the log's own settings, which workers do not have.
"""

import contextlib
import logging
import logging.handlers
import queue
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from bjepa.preproc.errors import InputError

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def run_everywhere(
    function: Callable[..., Result],
    items: Sequence[Any],
    *,
    shared: tuple[Any, ...],
    n_jobs: int,
    dask: str | None,
) -> Iterator[Result]:
    """`function(item, *shared)` for every item; results as they come.

    Parameters
    ----------
    shared : what every call gets too; sent once to each Dask worker
    n_jobs : processes of this machine, -1 = all cores; with `dask="local"` the number of workers
    dask : None (joblib), "local" (a cluster on this machine, made and closed here), or a scheduler's address

    Raises
    ------
    InputError
        dask.distributed is not installed; no scheduler at the address.
    """
    logged = _Logged(function, logging.getLogger(_ROOT).getEffectiveLevel())
    for result, records in _run(logged, items, shared, n_jobs, dask):
        for record in records:
            logging.getLogger(record.name).handle(record)
        yield result


def _run(
    function: Callable[..., Any], items: Sequence[Any], shared: tuple[Any, ...], n_jobs: int, dask: str | None
) -> Iterator[Any]:
    if dask is None:
        from joblib import Parallel, delayed

        tasks = (delayed(function)(item, *shared) for item in items)
        yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(tasks)
        return
    with _client(dask, n_jobs) as client:
        from distributed import as_completed

        kept = [client.scatter(value, broadcast=True, hash=False) for value in shared]
        futures = [client.submit(function, item, *kept, pure=False) for item in items]
        for future in as_completed(futures):
            yield future.result()
            future.release()


_ROOT = "bjepa"  # the logger above all of ours


class _Logged:
    """A function that returns its result and the log records it made, wherever it runs."""

    def __init__(self, function: Callable[..., Any], level: int) -> None:
        self.function, self.level = function, level

    def __call__(self, *args: Any) -> tuple[Any, list[logging.LogRecord]]:
        logger, records = logging.getLogger(_ROOT), queue.SimpleQueue[logging.LogRecord]()
        handler = logging.handlers.QueueHandler(records)  # makes records fit to be pickled
        before = logger.level, logger.propagate
        logger.addHandler(handler)
        logger.setLevel(self.level)
        logger.propagate = False
        try:
            result = self.function(*args)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before[0])
            logger.propagate = before[1]
        return result, [records.get() for _ in range(records.qsize())]


@contextlib.contextmanager
def _client(dask: str, n_jobs: int) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            f"--dask {dask} needs dask.distributed, which is not installed.",
            hint="pip install 'bjepa[dask]', or leave --dask out.",
        ) from error
    logging.getLogger("distributed").setLevel(logging.WARNING)  # it tells every worker's coming and going
    if dask == "local":
        workers = None if n_jobs == -1 else n_jobs
        # a process a worker, one thread each: HDF5 and the readers gain nothing from threads
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(dask, timeout="20s")
    except (OSError, ValueError) as error:
        raise InputError(
            f"--dask {dask}: no scheduler answers there ({error}).",
            hint="Give 'local', or the address that dask-scheduler prints, e.g. tcp://node1:8786.",
        ) from error
    with client:
        log.info("Dask cluster at %s: %d workers.", dask, len(client.scheduler_info()["workers"]))
        yield client
