"""The only place that starts Python children: time limit, memory limit, log capture, and every crash a named error."""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgewright.errors import (
    ArtifactError,
    EdgewrightError,
    WorkerCrashError,
    WorkerError,
    WorkerMemoryError,
    WorkerTimeoutError,
    error_from_json,
)

__all__ = ["Job", "Limits", "Worker", "progress", "run"]

log = logging.getLogger("edgewright")

ENVIRONMENT = {
    "KERAS_BACKEND": "tensorflow",
    "KERAS_HOME": str(Path(os.devnull) / "keras"),  # cannot exist: Keras goes on without reading or writing its settings
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONHASHSEED": "0",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""What every child sees, so that libraries behave the same wherever they are started from."""

Progress = Callable[[float, str], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use.

    Args:
        timeout_s: wall time of one job in seconds.
        memory_bytes: resident memory; None allows what the machine has free when the child starts.
    """

    timeout_s: float = 1800.0
    memory_bytes: int | None = None


class Worker:
    """A Python child process that runs jobs one after another; use it as a context manager.

    Jobs are named functions (`package.module:function`) with JSON arguments and a JSON result, so nothing is unpickled
    from a child that has opened an untrusted file. The child ends when this object is closed or this process dies. Several
    threads may submit jobs and wait for theirs.

    Args:
        limits: time and memory that one job may use.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        self.limits = limits
        self.peak_bytes = 0
        self._memory_limit = limits.memory_bytes or _free_memory()
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._done: dict[int, dict[str, Any]] = {}
        self._next = 0
        self._submitting = threading.Lock()
        self._end: WorkerError | None = None
        self._log = tempfile.TemporaryFile()
        self._scratch = tempfile.TemporaryDirectory(prefix=f"edgewright-{os.getpid()}-child-", ignore_cleanup_errors=True)
        verbose = log.isEnabledFor(logging.DEBUG)
        environment = {**os.environ, **ENVIRONMENT, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), self._scratch.name)}
        environment["TF_CPP_MIN_LOG_LEVEL"] = "0" if verbose else ENVIRONMENT["TF_CPP_MIN_LOG_LEVEL"]
        lifeline, self._lifeline = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from edgewright.worker import serve; serve({lifeline})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if verbose else self._log,
            env=environment,
            start_new_session=True,
            pass_fds=(lifeline,) if os.name == "posix" else (),
        )
        os.close(lifeline)
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def submit(self, function: str, /, *, what: str, on_progress: Progress | None = None, **arguments: Any) -> Job:
        """Queue a job and return at once.

        Args:
            function: `package.module:function`, importable in the child.
            what: the job in words, for messages: "reading model.keras".
            on_progress: called with a share between 0 and 1 and a text whenever the job reports.
            arguments: JSON values.
        """
        with self._submitting:
            self._next = number = self._next + 1
            request = json.dumps({"id": number, "function": function, "arguments": arguments})
            try:
                self._input.write(request.encode() + b"\n")
                self._input.flush()
            except OSError:
                log.debug("%s: the child is gone already", what)
        return Job(self, number, what, on_progress)

    def call(self, function: str, /, *, what: str, on_progress: Progress | None = None, **arguments: Any) -> Any:
        """Run a job and wait for its result; arguments and errors as in `submit` and `Job.result`."""
        return self.submit(function, what=what, on_progress=on_progress, **arguments).result()

    def close(self) -> None:
        """End the child and everything that it started, and remove its temporary files."""
        self._stop(WorkerError("the child process is closed"))
        self._listener.join(timeout=5)
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        for stream in (self._process.stdin, None if self._listener.is_alive() else self._process.stdout, self._log):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    log.debug("closing a pipe of a dead child failed")
        self._scratch.cleanup()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the child takes jobs: it was neither closed nor stopped, and has not ended by itself."""
        return self._end is None and self._process.poll() is None

    @property
    def _input(self) -> IO[bytes]:
        if self._process.stdin is None:
            raise WorkerError("the child has no input pipe")
        return self._process.stdin

    def _listen(self, pipe: IO[bytes]) -> None:
        try:
            for line in pipe:
                self._answers.put(json.loads(line))
        except ValueError:
            log.debug("a child's answer was cut off")
        self._answers.put(None)

    def _wait(self, job: Job) -> Any:
        started = time.monotonic()
        while job.number not in self._done:
            self._check_limits(job, started)
            try:
                message = self._answers.get(timeout=0.05)
            except queue.Empty:
                continue
            if message is None:
                self._answers.put(None)
                raise self._death(job)
            if "progress" in message:
                if job.on_progress and message["id"] == job.number:
                    job.on_progress(*message["progress"])
            else:
                self._done[message["id"]] = message
                started = time.monotonic()  # jobs run one after another: the next one starts where this one ended
        answer = self._done.pop(job.number)
        self._measure()
        if "memory" in answer:
            raise WorkerMemoryError(f"{job.what} ran out of memory", hint="free memory or use a machine with more")
        if "failure" in answer:
            raise WorkerError(f"{job.what} failed: {answer['failure']}", hint=_LOG_HINT)
        if "error" in answer:
            raise error_from_json(answer["error"])
        return answer["result"]

    def _check_limits(self, job: Job, started: float) -> None:
        if self._end is not None:
            return
        if self._measure() > self._memory_limit:
            error: WorkerError = WorkerMemoryError(
                f"{job.what} needed more than {_mib(self._memory_limit)} of memory and was stopped",
                hint="raise --memory-limit, free memory, or use a machine with more",
            )
        elif time.monotonic() - started > self.limits.timeout_s:
            error = WorkerTimeoutError(
                f"{job.what} took longer than the limit of {self.limits.timeout_s:g} s and was stopped",
                hint="raise --timeout if the model is large; otherwise the file may be corrupt",
            )
        else:
            return
        self._stop(error)
        raise error

    def _stop(self, why: WorkerError) -> None:
        """Kill the child and its process group (it leads a session of its own), once, and remember why."""
        if self._end is None:
            self._end = why
            _kill(self._process)
        self._process.wait()

    def _measure(self) -> int:
        """Resident bytes of the child now; remembers the peak (Linux; 0 elsewhere)."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii", errors="replace")
        except OSError:
            return 0
        values = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith(("VmRSS", "VmHWM"))}
        self.peak_bytes = max(self.peak_bytes, int(values.get("VmHWM", 0)) * 1024)
        return int(values.get("VmRSS", 0)) * 1024

    def _death(self, job: Job) -> WorkerError:
        """The error for a job whose child closed its channel before it answered."""
        if self._end is not None:
            return WorkerError(f"{job.what} was not done, its process had ended: {self._end.message}", hint=self._end.hint)
        try:
            code: int | None = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = None
        tail = self._log_tail()
        if tail:
            log.debug("last words of the child:\n%s", tail)
        error = _cause(job.what, code, tail, self.peak_bytes)
        self._stop(error)
        return error

    def _log_tail(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - 4000))
        return self._log.read().decode(errors="replace")


@dataclass(slots=True)
class Job:
    """A job that was submitted to a `Worker`."""

    worker: Worker
    number: int
    what: str
    on_progress: Progress | None

    def result(self) -> Any:
        """Wait for the job's result.

        Raises:
            EdgewrightError: the error that the job itself raised.
            WorkerTimeoutError: the job passed its time limit; the child is ended.
            WorkerMemoryError: the job passed its memory limit or was killed for memory.
            WorkerCrashError: the child crashed.
            WorkerError: the job raised something that is no Edgewright error.
        """
        return self.worker._wait(self)


def run(function: str, /, *, what: str, limits: Limits = Limits(), on_progress: Progress | None = None, **arguments: Any) -> Any:
    """Run one job in a child of its own; see `Worker.submit` and `Job.result`."""
    with Worker(limits) as worker:
        return worker.call(function, what=what, on_progress=on_progress, **arguments)


_LOG_HINT = "run again with -v to see its log"


def _cause(what: str, code: int | None, tail: str, peak_bytes: int) -> WorkerError:
    """Why a child ended, from its exit code (None: it lives, but does not answer) and the end of its log."""
    if code == -signal.SIGKILL or "bad_alloc" in tail or "MemoryError" in tail:
        return WorkerMemoryError(
            f"{what} was killed, most likely because memory ran out (its peak was {_mib(peak_bytes)})",
            hint="free memory or use a machine with more",
        )
    if code is None:
        return WorkerCrashError(f"{what} stopped answering: a library underneath closed its channel", hint=_LOG_HINT)
    if code < 0:
        return WorkerCrashError(f"{what} crashed ({_signal_name(-code)} in a library underneath)", hint=_LOG_HINT)
    return WorkerCrashError(f"{what} ended without an answer (exit code {code} in a library underneath)", hint=_LOG_HINT)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return f"signal {number}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a child and what it started."""
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except OSError:
        log.debug("the child ended by itself")


def _free_memory() -> int:
    """Bytes that a child may use: nine tenths of what is available now."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 1 << 62
    return available * 1024 * 9 // 10


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


# ---- in the child -----------------------------------------------------------------------------------------------------

_channel: IO[bytes] | None = None
_sending = threading.Lock()
_current = 0


def progress(share: float, text: str) -> None:
    """Report how far the running job is; does nothing outside a worker.

    Args:
        share: between 0 and 1.
        text: what is being done.
    """
    if _channel is not None:
        _send({"id": _current, "progress": [share, text]})


def serve(lifeline: int) -> None:
    """Serve jobs from standard input until it closes; the child's main function.

    Descriptors 0 and 1 are then the null device and the log, so that no library or grandchild touches the channel.

    Args:
        lifeline: read end of a pipe that nobody writes to and that only the parent holds open.
    """
    global _channel, _current
    _die_with(lifeline)
    requests = os.fdopen(os.dup(0), "rb")
    _channel = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # it phones home; its users fall back to silence
    jobs: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_receive, args=(requests, jobs), daemon=True).start()
    while True:
        job = jobs.get()
        _current = job["id"]
        _send({"id": _current, **_execute(job["function"], job["arguments"])})
        _give_back()


def _give_back() -> None:
    """Return freed memory to the system, which glibc keeps: one job's garbage is not to count as the next one's."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        logging.getLogger("edgewright").debug("no malloc_trim here")


def _die_with(lifeline: int) -> None:
    """Have the kernel end this process group when a pipe's other end closes, even if a library holds Python's lock then."""
    try:
        import fcntl

        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)  # SIGIO: the default ends
    except (ImportError, AttributeError, OSError):
        logging.getLogger("edgewright").debug("no SIGIO on pipes here: only the thread that reads requests notices")


def _receive(requests: IO[bytes], jobs: queue.Queue[dict[str, Any]]) -> None:
    """Queue what arrives; when the parent closes the pipe or dies, end at once, whatever is running."""
    for line in requests:
        jobs.put(json.loads(line))
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)  # and whatever a library started
    os._exit(0)


def _execute(function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        module, _, name = function.partition(":")
        result = getattr(importlib.import_module(module), name)(**arguments)
        json.dumps(result)
        return {"result": result}
    except EdgewrightError as error:
        return {"error": error.to_json()}
    except MemoryError:
        return {"memory": True}
    except BaseException as error:  # a library may raise anything, SystemExit included; the parent must hear of it
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            hint = "free space there, or name another place with -o (and TMPDIR for temporary files)"
            return {"error": ArtifactError(f"cannot write {error.filename or 'a file'}: {error.strerror}", hint).to_json()}
        logging.getLogger("edgewright").exception("job %s failed", function)
        first = next((line for line in str(error).splitlines() if line.strip()), "no message")
        return {"failure": f"{type(error).__name__}: {first[:300]}"}


def _send(message: dict[str, Any]) -> None:
    if _channel is None:
        raise WorkerError("not in a worker")
    try:
        with _sending:
            _channel.write(json.dumps(message).encode() + b"\n")
            _channel.flush()
    except OSError:
        os._exit(0)
