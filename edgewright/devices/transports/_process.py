"""A child process of this machine as a running command."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from typing import IO

from edgewright.devices.running import Running
from edgewright.errors import DeviceError

__all__ = ["ChildRunning"]


class ChildRunning(Running):
    """A child process and the threads that read its outputs and wait for its end."""

    def __init__(
        self,
        argv: tuple[str, ...],
        where: str,
        process: subprocess.Popen[bytes],
        sink: Callable[[bytes], object] | None,
        *,
        marked: bool = False,
    ) -> None:
        super().__init__(argv, where, marked=marked, sink=sink)
        self._process = process
        self._input = threading.Lock()
        pipes = (process.stdout, process.stderr)
        readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in enumerate(pipes)]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._watch, args=(readers,), daemon=True).start()

    def _write(self, data: bytes) -> None:
        pipe, view = self._process.stdin, memoryview(data)
        try:
            with self._input:
                while pipe is not None and view:
                    view = view[pipe.write(view) :]
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EBADF, errno.EINVAL):
                raise
            raise DeviceError(f"{self.what} on {self.where} has ended or closed its input and takes no more") from error

    def _close_stdin(self) -> None:
        with self._input:
            if self._process.stdin is not None:
                self._process.stdin.close()

    def _kill(self) -> None:
        if self._process.returncode is None:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait(5)

    def _drop(self) -> None:
        """The threads let go of all when the process has ended."""

    def _read(self, stream: int, pipe: IO[bytes] | None) -> None:
        if pipe is not None:
            with pipe:
                while chunk := pipe.read(1 << 16):
                    self._feed(chunk, stream)

    def _watch(self, readers: list[threading.Thread]) -> None:
        code = self._process.wait()
        self._left(code if code >= 0 else 128 - code)
        for reader in readers:  # what it left in the background may hold its outputs open for long
            reader.join()
        self._over()
        self.close_stdin()

    def _left(self, code: int) -> None:
        """The process has ended; its output may still come."""
        self._exited(code)

    def _over(self) -> None:
        """The process has ended, and its outputs are closed."""
        self._ended()
