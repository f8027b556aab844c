"""BLAS in one thread: several sum in another order, and so give other bytes."""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any


def one_blas_thread() -> AbstractContextManager[Any]:
    """Within it BLAS has one thread, in all threads of the process: they must not set it themselves."""
    limited: AbstractContextManager[Any] = _threadpools().limit(limits=1, user_api="blas")
    return limited


@cache
def _threadpools() -> Any:
    """Of numpy and scipy, which bring a BLAS each; looking for them takes 2 ms."""
    import scipy.linalg  # noqa: F401  its BLAS must be loaded to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
