"""Runs bjepa-train in children that are killed at given moments, then to its end: for test_model_resume.py.

    python kill_and_resume.py '{"arguments": [...], "kills": [["seconds", 0.4], ["update", 7], ["write", 2]]}'

Prints a line a session: how it ended. One interpreter imports torch; the children are forks of it.
"""

import importlib
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from bjepa.cli.train import main

trainer: Any = importlib.import_module("bjepa.model.trainer")  # whose parts are replaced in a child
save = torch.save


def nth_call(function: Callable[..., Any], n: int, then: Callable[..., None]) -> Callable[..., Any]:
    """`function`, but its n-th call (from 1) is `then`."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return then(*args, **kwargs) if calls == n else function(*args, **kwargs)

    return counted


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def after_writing(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, called when no checkpoint is being written: so one is written after every update."""

    def waited(*args: Any, **kwargs: Any) -> Any:
        for thread in threading.enumerate():
            if thread.name == "bjepa-writer":
                thread.join()
        return function(*args, **kwargs)

    return waited


def die_writing(content: Any, path: Any) -> None:
    """Half of the file, then nothing."""
    whole = io.BytesIO()
    save(content, whole)
    with open(path, "wb") as file:
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        die()


def session(arguments: list[str], kill: tuple[str, float] | None) -> str:
    """Train in a child, killed after `seconds`, in the n-th `update`, in the n-th `write`, or not at all."""
    child = os.fork()
    if child == 0:
        if kill is not None and kill[0] == "update":
            trainer.train_step = after_writing(nth_call(trainer.train_step, int(kill[1]), die))
        elif kill is not None and kill[0] == "write":
            torch.save = nth_call(save, int(kill[1]), die_writing)
        os._exit(main(arguments))
    if kill is not None and kill[0] == "seconds":
        time.sleep(kill[1])
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {0: "done", -signal.SIGKILL: "killed"}.get(status, f"status {status}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    task = json.loads(sys.argv[1])
    for moment in (*task["kills"], None):
        print(session(task["arguments"], moment), flush=True)
