"""Running a function in a process of its own, so that whatever it changes in memory or reads from files stays there.

The process is forked, as the workers of a `DataLoader` are: it sees this process's memory as it is now, without a copy,
and what it writes is its own. What a fork shares with its parent otherwise, files, memory and connections, it makes its
own. All this is Linux's.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import gc
import mmap
import multiprocessing
import os
import pickle
import stat
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import managers
from multiprocessing.connection import Connection
from multiprocessing.pool import RemoteTraceback  # type: ignore[attr-defined]  # typeshed leaves it out
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter


class SharedStateError(ValueError):
    """The data hold something that lives in another process and cannot be had twice."""


def own_everything(*, but: set[int]) -> None:
    """Make shared files, memory and connections this process's own, all but some file descriptors."""
    _own_files(but | {1, 2})
    _own_memory()
    _leave_workers_alone()
    managers.BaseProxy._callmethod = _refuse_manager  # type: ignore[method-assign, assignment]  # here only
    # A socket to the manager of the other strategy would be the parent's.
    torch.multiprocessing.set_sharing_strategy("file_descriptor")  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _own_files(but: set[int]) -> None:
    """Reopen each file that may be read, at its position; cut each connection.

    A position is shared by all processes that inherited the open file: whoever reads moves it for all.
    """
    import fcntl  # not on Windows

    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            mode = os.fstat(number).st_mode
        except OSError:  # what listed the folder
            continue
        if number in but or not (stat.S_ISREG(mode) or stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode)):
            continue
        own = None
        if stat.S_ISREG(mode):
            flags = fcntl.fcntl(number, fcntl.F_GETFL)
            if flags & os.O_ACCMODE == os.O_WRONLY:  # nothing is read there, and logs go on in one place
                continue
            try:
                own = os.open(f"/proc/self/fd/{number}", flags & ~(os.O_CREAT | os.O_TRUNC | os.O_EXCL | os.O_NOFOLLOW))
                os.lseek(own, os.lseek(number, 0, os.SEEK_CUR), os.SEEK_SET)
            except OSError:
                own = None
        if own is None:
            # Reading it fails here, and takes nothing from the parent.
            reads = stat.S_ISFIFO(mode) and fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
            own = os.open(os.devnull, os.O_WRONLY if reads else os.O_RDWR)
        os.dup2(own, number, inheritable=os.get_inheritable(number))
        os.close(own)


def _own_memory() -> None:
    """Put private copies in the place of writable shared memory: tensors, arrays and values of `multiprocessing`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    access = mmap.PROT_READ | mmap.PROT_WRITE
    fixed = mmap.MAP_PRIVATE | 0x10  # MAP_FIXED, which Python does not name

    def map_at(start: int, size: int, flags: int, file: int, offset: int) -> None:
        if libc.mmap(start, size, access, fixed | flags, file, offset) != start:
            raise OSError(ctypes.get_errno(), "shared memory could not be made private")

    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, offset, _, inode, *rest = line.split(maxsplit=5)
        name = rest[0] if rest else ""
        if not (rights.startswith("rw-s") and _is_data(name)):
            continue
        start, end = (int(place, 16) for place in span.split("-"))
        if Path(name).is_file() and os.stat(name).st_ino == int(inode):
            file = os.open(name, os.O_RDONLY)
            map_at(start, end - start, 0, file, int(offset, 16))
            os.close(file)
        else:
            content = ctypes.string_at(start, end - start)
            map_at(start, end - start, mmap.MAP_ANONYMOUS, -1, 0)
            ctypes.memmove(start, content, end - start)


def _is_data(name: str) -> bool:
    # Locks must stay shared: one that another process holds now would never be released in a copy.
    if name.startswith("/dev/shm/sem.") or not name.startswith("/"):
        return False
    return name.startswith(("/dev/shm/", "/dev/zero", "/memfd:")) or "pym-" in name or Path(name).is_file()


def _leave_workers_alone() -> None:
    """Have loaders begin anew, with workers of this process, and never reset or end the parent's workers."""
    shut_down, iterate = _MultiProcessingDataLoaderIter._shutdown_workers, DataLoader.__iter__

    def shut_down_own(iterator: Any) -> None:
        if all(worker._parent_pid == os.getpid() for worker in iterator._workers):
            shut_down(iterator)

    @functools.wraps(iterate)
    def iterate_anew(loader: Any) -> Iterator[Any]:
        vars(loader)["_iterator"] = None  # workers that persist are the parent's
        return iterate(loader)

    _MultiProcessingDataLoaderIter._shutdown_workers = shut_down_own  # type: ignore[method-assign, assignment]  # here only
    DataLoader.__iter__ = iterate_anew  # type: ignore[method-assign, assignment]  # here only


def _refuse_manager(proxy: Any, *_: Any, **__: Any) -> Any:
    raise SharedStateError(
        f"the data use a {type(proxy).__name__} of multiprocessing.Manager, which all processes share"
    )


T = TypeVar("T")

WITHOUT_HOPE = 10.0  # seconds asleep after which nobody will wake a process that waits for a thread it does not have
LONGEST = 3600.0  # seconds: far more than any loader takes, and still no wait for ever


class NeedsThisProcessError(RuntimeError):
    """The function uses what no forked process can use, such as CUDA."""


def can_fork(context: Any = None) -> bool:
    """Tell whether a process can be forked here, and would be for the user's own workers, started in `context`."""
    method = context.get_start_method() if context is not None else multiprocessing.get_start_method(allow_none=True)
    forks = (method or multiprocessing.get_all_start_methods()[0]) == "fork"
    return forks and Path("/proc/self/fd").is_dir() and not multiprocessing.current_process().daemon


def in_own_process(function: Callable[[], T], *, longest: float = LONGEST) -> T:
    """Return what the function returns, run in a forked process.

    Args:
        function: anything that can be called; it is not pickled, but what it returns or raises is.
        longest: seconds to wait for it.

    Raises:
        NeedsThisProcessError: if the function needs CUDA, say.
        SharedStateError: if it waits for a thread that only this process has.
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
        _wait(receiver, process.pid or 0, longest)
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


def _wait(receiver: Connection, pid: int, longest: float) -> None:
    """Wait for an answer, as long as there may be one."""
    started, asleep_since = time.monotonic(), None
    while not receiver.poll(min(longest, WITHOUT_HOPE / 10)):
        now = time.monotonic()
        if now - started >= longest:
            raise TimeoutError(f"reading samples in a process of its own took longer than {longest:.0f} s")
        asleep_since = (asleep_since or now) if _waits_for_a_thread(pid) else None
        if asleep_since is not None and now - asleep_since > WITHOUT_HOPE:
            raise SharedStateError("the data wait for a thread of the run, which no other process has")


def _waits_for_a_thread(pid: int) -> bool:
    """Tell whether a process waits for a lock that only a thread of another process could give back.

    Threads of its own, such as those that torch computes with, wait beside it. Where all wait, none wakes another.
    """
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        alone = not any((thread / "children").read_text() for thread in threads)
        return alone and all((thread / "wchan").read_text().startswith("futex") for thread in threads)
    except OSError:  # it has ended, or this system does not tell
        return False


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
    # Also where a worker or a library has wrapped it.
    if os.strerror(errno.ENOTSOCK) in told or os.strerror(errno.EBADF) in told:
        error = SharedStateError("the data use a connection that is open in the run and cannot be had twice")
    try:
        answer = pickle.dumps((False, error, told))
        pickle.loads(answer)
    except Exception:
        answer = pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}"), told))
    return answer
