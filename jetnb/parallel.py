"""One map over the processes of this machine, or of a cluster: whatever happens to a worker, and to
its parent.

A worker that is killed costs time alone: its piece is done again by a new one. Workers end with the
process that started them, however it ended. Ctrl-C reaches that process alone, which ends them.

Not `concurrent.futures` or joblib: both give up all pieces when one worker dies, without saying
which piece it had.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping

import cloudpickle

AHEAD = 2  # results kept, or pieces in work, for each worker where the order counts: more would only fill memory
DEATHS = 3  # as many workers may die of one piece before it is given up
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Elsewhere(Exception):
    """The traceback of an error that was raised in a worker; `file` is where."""

    def __init__(self, text: str, file: str):
        super().__init__(text)
        self.text, self.file = text, file

    def __str__(self) -> str:
        return f"in a worker:\n{self.text}"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable, pieces: Iterable, *, processes: int | None = None, client=None
) -> Iterator:
    """`function(piece)` for each of `pieces`, in their order.

    processes: workers on this machine, all cores without; 1 works here. client: a
    `dask.distributed.Client`, whose workers are used then. `function` may be one written in a
    notebook; a script needs ``if __name__ == "__main__":`` around the call. Each worker has one
    thread. Raises what `function` raises, and `RuntimeError` for a piece of which three workers
    died.
    """
    if client is not None:
        yield from _on_cluster(function, pieces, client)
    elif (processes or cores()) == 1 or _is_worker():
        yield from map(function, pieces)
    else:
        for _, result in _in_workers(
            function, pieces, processes or cores(), fork=False, ordered=True
        ):
            yield result


def as_done(
    function: Callable, pieces: Iterable, *, processes: int | None = None, fork: bool = False
) -> Generator:
    """Pairs (piece, `function(piece)`) as they are done, in no fixed order; always by workers, even
    by one.

    `pieces` may be a generator that decides from the pairs so far what to do next: it is asked when
    a worker is free. To stop early, stop iterating: the workers are ended. fork: workers share the
    memory of this process and start at once, where that is safe (on Linux, without a GPU); there,
    one process works here. Else as `run`.
    """
    if _is_worker() or fork and processes == 1:
        yield from ((piece, function(piece)) for piece in pieces)
    else:
        yield from _in_workers(
            function, pieces, processes or cores(), fork=fork and _fork_is_safe(), ordered=False
        )


def grid(
    function: Callable,
    cases: Mapping[Hashable, object] | Iterable[Hashable],
    seeds: Iterable[int],
    *,
    processes: int | None = None,
    progress: bool = True,
) -> dict[tuple, object]:
    """`function(case, seed)` for each of `cases` and each of `seeds`, one beside another: {(case,
    seed): result}.

    cases: what `function` takes, or name -> what it takes, and then the names are in the result. It
    is in the order of the cases, whichever was done first. Each training has one thread, so that
    numbers do not depend on `processes`: all cores without; 1 works here. Raises as `run` does.
    """
    from tqdm.auto import tqdm

    table = dict(cases) if isinstance(cases, Mapping) else {case: case for case in cases}
    keys = list(itertools.product(table, seeds))
    work = [(table[name], seed) for name, seed in keys]
    with _one_thread(), tqdm(total=len(keys), unit="run", disable=not progress) as bar:
        found = {}
        for key, result in zip(
            keys,
            run(_Starred(function), work, processes=min(processes or cores(), len(keys) or 1)),
            strict=True,
        ):
            found[key] = result
            bar.update()
    return found


class _Starred:
    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, piece: tuple):
        return self.function(*piece)


def _on_cluster(function: Callable, pieces: Iterable, client) -> Iterator:
    from distributed import KilledWorker

    pieces, waiting = iter(pieces), deque()
    while True:
        # Less than 0 just after a death.
        room = AHEAD * len(client.scheduler_info()["workers"]) - len(waiting)
        for piece in itertools.islice(pieces, max(room, 0 if waiting else 1)):
            waiting.append((piece, client.submit(function, piece, pure=False, retries=DEATHS)))
        if not waiting:
            return
        piece, future = waiting.popleft()
        try:
            result = future.result()
        except KilledWorker as error:
            raise _given_up(piece, f"several workers of the cluster died ({error})") from None
        yield result


class _Worker:
    """A process and the connection to it; ticket: the number and the piece that it has in work, or
    None.
    """

    def __init__(self, context, function):
        self.connection, theirs = context.Pipe()
        # Others may end before their process.
        lasting = threading.current_thread() is threading.main_thread()
        self.process = context.Process(target=_serve, args=(theirs, function, lasting), daemon=True)
        self.ticket, self.ready = None, False
        with _as_workers_start(spawned=context.get_start_method() == "spawn"):
            self.process.start()
        theirs.close()  # so that the end of the worker is seen at our end

    def give(self, ticket: tuple) -> None:
        self.ticket = ticket
        with contextlib.suppress(OSError):  # it is dead, which `take` will find
            self.connection.send_bytes(cloudpickle.dumps(ticket[1]))

    def take(self) -> tuple | None:
        """What it has to say about its piece, None if nothing yet. Raises EOFError if it is dead."""
        # Dead, but something that it started holds the connection open.
        if not self.connection.poll():
            raise EOFError
        said = self.connection.recv_bytes()
        if not self.ready:
            self.ready = True
            if not said:
                return None
        return cloudpickle.loads(said)

    def end(self) -> None:
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()
        self.connection.close()


def _in_workers(
    function: Callable, pieces: Iterable, processes: int, *, fork: bool, ordered: bool
) -> Iterator:
    # Spawned unless told otherwise: threads of numba, torch and Jupyter do not survive a fork.
    context = multiprocessing.get_context("fork" if fork else "spawn")
    function = function if fork else cloudpickle.dumps(function)
    tickets = enumerate(pieces)  # number of a piece, piece
    workers: list[_Worker] = []
    # In done: number -> ticket and what the worker said.
    again, deaths, done, turn = (deque(), Counter(), {}, 0)
    try:
        while True:
            free = [worker for worker in workers if worker.ticket is None]
            busy = [worker for worker in workers if worker.ticket is not None]
            while len(busy) < processes:
                if again:
                    ticket = again.popleft()
                elif not ordered or len(busy) + len(done) < AHEAD * processes:
                    ticket = next(tickets, None)
                else:
                    break
                if ticket is None:
                    break
                if not free:
                    free.append(_Worker(context, function))
                    workers.append(free[-1])
                busy.append(free.pop())
                busy[-1].give(ticket)
            before = turn
            while done and (not ordered or turn in done):
                (_, piece), said = done.pop(turn if ordered else next(iter(done)))
                turn += 1
                yield piece, _result(said)
            if turn > before:
                continue  # there may be room for other pieces now
            if not busy:
                return
            ready = multiprocessing.connection.wait(
                [worker.connection for worker in busy], timeout=1
            )
            for worker in busy:
                if worker.connection not in ready and worker.process.is_alive():
                    continue
                try:
                    said = worker.take()
                except (EOFError, OSError):
                    again.append(worker.ticket)
                    deaths[worker.ticket[0]] += 1
                    workers.remove(worker)
                    worker.end()
                    _judge(worker, deaths[worker.ticket[0]])
                    continue
                if said is not None:
                    done[worker.ticket[0]] = worker.ticket, said
                    worker.ticket = None
    finally:
        for worker in workers:
            worker.end()


def _judge(worker: _Worker, deaths: int) -> None:
    """Raise where it makes no sense to go on without this worker."""
    code = worker.process.exitcode
    if not worker.ready and code > 0:
        raise RuntimeError(
            f"a worker ended with status {code} before it began: in a script, put the call under "
            'if __name__ == "__main__":'
        )
    if deaths >= DEATHS:
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        raise _given_up(worker.ticket[1], f"{deaths} workers died, the last by {how},")


def _given_up(piece, what: str) -> RuntimeError:
    shown = repr(piece)
    shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
    return RuntimeError(
        f"{what} at {shown}: is there too little memory? Use fewer processes, or smaller pieces"
    )


def _result(said: tuple):
    good, value = said
    if good:
        return value
    error, text, file = value
    raise error from Elsewhere(text, file)


# What follows is done by a worker.


def _serve(connection, function, lasting: bool) -> None:
    """Do one piece after another until the parent ends this process; `lasting` is the thread that
    started it.
    """
    _end_with_parent(by_kernel=lasting)
    # A handler that was inherited is not meant for a worker.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)  # forked, it has the number of its parent
    # The parent has just gone, and this process will too.
    with contextlib.suppress(EOFError, OSError):
        try:
            function = cloudpickle.loads(function) if isinstance(function, bytes) else function
        except BaseException as error:
            connection.send_bytes(_packed(False, _described(error)))
            return
        connection.send_bytes(b"")
        while True:
            piece = connection.recv_bytes()
            try:
                said = _packed(True, function(cloudpickle.loads(piece)))
            except BaseException as error:
                said = _packed(False, _described(error))
            connection.send_bytes(said)


def _packed(good: bool, value) -> bytes:
    return cloudpickle.dumps((good, value))


def _described(error: BaseException) -> tuple:
    text = "".join(traceback.format_exception(error)).rstrip()
    frames = traceback.extract_tb(error.__traceback__)
    file = frames[-1].filename if frames else ""
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # an error that cannot travel
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return error, text, file


def _end_with_parent(*, by_kernel: bool) -> None:
    """No life after a killed parent: by the kernel where it can, and by a thread that looks where
    it cannot.
    """
    parent = multiprocessing.parent_process()
    # Which means the thread of the parent, and kills at once.
    if by_kernel and sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of linux/prctl.h

    def look():
        # The pipe to the parent may be held open by other children of it, so its number is looked
        # at too.
        while parent.is_alive() and (os.name == "nt" or os.getppid() == parent.pid):
            parent.join(1)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def _is_worker() -> bool:
    """Whether this is a worker, which has no workers of its own."""
    return multiprocessing.current_process().daemon


def _fork_is_safe() -> bool:
    # Its gradients are computed by threads where there is a GPU, used or not.
    torch = sys.modules.get("torch")
    return sys.platform == "linux" and (torch is None or torch.cuda.device_count() == 0)


@contextlib.contextmanager
def _as_workers_start(*, spawned: bool) -> Iterator[None]:
    """What a process that starts in this block inherits: Ctrl-C is not for it, and it has one
    thread.
    """
    if spawned and os.name != "nt":
        from multiprocessing import resource_tracker

        resource_tracker.ensure_running()  # its start would let Ctrl-C through again
    before = {name: os.environ.get(name) for name in THREADS}
    mask = (
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        if hasattr(signal, "pthread_sigmask")
        else None
    )
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        # Of threads: a forked worker uses none of those of this process.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch here, as workers have."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
