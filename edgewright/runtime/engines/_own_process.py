"""Runs a job that may crash in a process of its own: a worker, or a copy of this process where Python cannot start itself."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgewright import worker
from edgewright.errors import (
    EdgewrightError,
    UnsupportedError,
    WorkerCrashError,
    WorkerError,
    WorkerTimeoutError,
    error_from_json,
)

__all__ = ["in_own_process"]

_TIMEOUT_S = 300.0


def in_own_process(job: str, what: str, answer: Path, arguments: Mapping[str, Any]) -> Any:
    """Result of a job; no crash of it reaches this process.

    Args:
        job: `package.module:function`; arguments and result are JSON values.
        what: the job in words, for messages: "profiling model.tflite".
        answer: a file that is not there yet, for the result.
        arguments: of the function.

    Raises:
        WorkerError: the job crashed, took longer than 300 s, or raised something that is no Edgewright error.
        EdgewrightError: the error that the job itself raised.
        UnsupportedError: no process can be started.
    """
    why = _why_not()
    if not why:
        return worker.run(job, what=what, limits=worker.Limits(timeout_s=_TIMEOUT_S), **arguments)
    if not hasattr(os, "fork"):
        raise UnsupportedError(f"{what} needs a process of its own, and {sys.executable} cannot be started: {why}")
    return _forked(job, what, answer, arguments)


def _why_not() -> str:
    """Why Python cannot start itself, as under an emulator or embedded; empty if it can."""
    try:
        done = subprocess.run([sys.executable, "-c", ""], capture_output=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return str(error)
    return f"it ended with code {done.returncode}" if done.returncode else ""


def _forked(job: str, what: str, answer: Path, arguments: Mapping[str, Any]) -> Any:
    """Result of a job in a copy of this process."""
    with warnings.catch_warnings():
        # Threads of libraries do not exist in the copy, of which Python 3.12 warns: jobs open libraries of their own.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        _answer(job, answer, arguments)
    until = time.monotonic() + _TIMEOUT_S
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise WorkerTimeoutError(f"{what} took longer than the limit of {_TIMEOUT_S:g} s and was stopped")
        time.sleep(0.01)
    if os.WIFSIGNALED(status):
        raise WorkerCrashError(f"{what} crashed ({signal.Signals(os.WTERMSIG(status)).name} in a library underneath)")
    if status or not answer.is_file():
        raise WorkerCrashError(f"{what} ended without an answer (exit code {os.waitstatus_to_exitcode(status)})")
    found = json.loads(answer.read_text(encoding="utf-8"))
    if "failure" in found:
        raise WorkerError(f"{what} failed: {found['failure']}")
    if "error" in found:
        raise error_from_json(found["error"])
    return found["result"]


def _answer(job: str, answer: Path, arguments: Mapping[str, Any]) -> NoReturn:
    """What the copy does: the job in silence, its answer into the file, and an end that runs nothing of the original's."""
    code = 1
    try:
        faulthandler.disable()  # it may report to a descriptor of its own
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        module, _, function = job.partition(":")
        try:
            found = {"result": getattr(importlib.import_module(module), function)(**arguments)}
        except EdgewrightError as error:
            found = {"error": error.to_json()}
        except Exception as error:
            found = {"failure": f"{type(error).__name__}: {error}"}
        answer.write_text(json.dumps(found), encoding="utf-8")
        code = 0
    finally:
        os._exit(code)
