"""Running a function in a process of its own, so that whatever it changes in memory or reads from files stays there.

The process is forked, as the workers of a `DataLoader` are: it sees this process's memory as it is now, without a copy,
and what it writes is its own. What a fork shares with its parent is made its own by `ownership`.
"""

from __future__ import annotations

import errno
import gc
import multiprocessing
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]  # typeshed leaves it out
from pathlib import Path
from typing import Any, TypeVar

import torch

from interaction_monitor.loading.ownership import SharedStateError, own_everything

T = TypeVar("T")

LONGEST = 3600.0  # seconds: far more than any loader takes, and still no wait for ever


class NeedsThisProcessError(RuntimeError):
    """The function uses what no forked process can use, such as CUDA."""


def can_fork(start_method: str | None = None) -> bool:
    """Tell whether a function can be run in a process of its own here.

    Args:
        start_method: how the user's own workers are started; None means as torch would start them.
    """
    method = (
        start_method or multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    )
    return method == "fork" and Path("/proc/self/fd").is_dir() and not multiprocessing.current_process().daemon


def in_own_process(function: Callable[[], T], *, longest: float = LONGEST) -> T:
    """Return what the function returns, run in a forked process.

    Args:
        function: anything that can be called; it is not pickled, but what it returns or raises is.
        longest: seconds to wait for it.

    Raises:
        NeedsThisProcessError: if the function needs CUDA, say.
        TimeoutError: if it takes longer.
        RuntimeError: if the process dies.
        Exception: what the function raises.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(function, sender))
    with warnings.catch_warnings():
        # Python warns of every fork beside threads; the workers of a loader are forked in the same way.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    sender.close()
    try:
        if not receiver.poll(longest):
            raise TimeoutError(f"reading samples in a process of its own took longer than {longest:.0f} s")
        answer = receiver.recv_bytes()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process that read the samples ended with exit code {process.exitcode}") from None
    except BaseException:
        process.kill()
        raise
    finally:
        receiver.close()
        process.join()  # without a limit: what tells that time is up was cut in the process
        process.close()
    went_well, result, told = pickle.loads(answer)
    if went_well:
        return result  # type: ignore[no-any-return]  # what the function returned
    if "forked subprocess" in str(result):  # how torch refuses CUDA there
        raise NeedsThisProcessError(str(result))
    raise result from RemoteTraceback(told)


def _serve(function: Callable[[], Any], sender: Connection) -> None:
    gc.freeze()  # finalizers of the parent's objects are the parent's to run
    try:
        torch.set_num_threads(1)  # its threads are not forked, and would be waited for
        own_everything(but={sender.fileno()})
        answer = pickle.dumps((True, function(), ""))
    except BaseException as error:
        answer = _answer_of(error)
    try:
        sender.send_bytes(answer)
        sender.close()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # nothing registered by the parent for its own end is run


def _answer_of(error: BaseException) -> bytes:
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    if os.strerror(errno.ENOTSOCK) in told:  # also where a worker or a library has wrapped it
        error = SharedStateError("the data use a connection that is open in the run and cannot be had twice")
    try:
        answer = pickle.dumps((False, error, told))
        pickle.loads(answer)
    except Exception:
        answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}"), told))
    return answer
