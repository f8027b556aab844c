"""Threads that share memory, for work on very large matrices, and how long such work will take.

numpy's products, sorting and elementwise functions run beside each other in threads. Each product runs in one
thread of its own, so that results do not depend on the number of threads.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import numpy as np

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # wraps so many steps, as tqdm(steps, total=n)


@contextmanager
def threads(n_jobs: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of `n_jobs` threads (-1 = all cores) in which BLAS does not start more."""
    from joblib import effective_n_jobs
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(effective_n_jobs(n_jobs)) as pool:
        yield pool


def seconds_per_flop(dtype: type[np.floating]) -> float:
    """Of a matrix product in one thread, tried out for some 0.05 s."""
    from threadpoolctl import threadpool_limits

    n = 768
    square = np.ones((n, n), dtype=dtype)
    with threadpool_limits(1, user_api="blas"):
        square @ square  # the first call takes longer
        start = perf_counter()
        square @ square.copy()
        return (perf_counter() - start) / (2 * n**3)


def duration(seconds: float) -> str:
    """In words, for messages."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
