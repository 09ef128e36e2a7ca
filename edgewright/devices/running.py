"""A command that runs on a board: its output as it comes, its standard input, its end."""

from __future__ import annotations

import logging
import os
import re
import shlex
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgewright.errors import DeviceError

__all__ = ["OUTPUT_LIMIT_BYTES", "Completed", "Running", "command_line"]

log = logging.getLogger("edgewright")

OUTPUT_LIMIT_BYTES = 64 << 20
"""A command that prints more is ended: nothing that is asked of a board answers with as much."""

_LINE_LIMIT_BYTES = 60_000
"""What every way to a shell takes: adb's requests have 64 KiB, an argument on Linux 128 KiB."""

_GRACE_S = 2.0
"""How long after a command's exit its output may stay silent and open: what it left in the background may hold it."""

_MARK = b"edgewright-pid "
_MARKED = re.compile(_MARK + rb"(\d+)\r?\n")
_MARK_WITHIN_BYTES = 1 << 16


def command_line(argv: Sequence[str], env: Mapping[str, str], *, then: str = "") -> bytes:
    """One line for a board's shell that runs a command in place of that shell and first prints its process number.

    The number is what `Running` looks for and takes out of the output, whatever a login script printed before; a board's
    shell leads a process group of its own, so the number ends the command with all that it started.

    Args:
        argv: the command.
        env: variables that are set for it.
        then: shell text that runs after the command; empty puts the command in the place of the shell.

    Raises:
        DeviceError: the line is longer than a board takes.
    """
    words = ["env", *(f"{name}={value}" for name, value in env.items()), *argv] if env else argv
    script = f'echo "{_MARK.decode()}$$"; ' + (f'"$@"; {then}' if then else 'exec "$@"')
    line = os.fsencode("exec " + shlex.join(["sh", "-c", script, "sh", *words]))
    if len(line) > _LINE_LIMIT_BYTES:
        raise DeviceError(
            f"a command for a board may have {_LINE_LIMIT_BYTES:,} bytes, this one has {len(line):,}",
            hint="send what is long through its standard input, or as a file",
        )
    return line


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ran to its end.

    Args:
        argv: the command.
        code: its exit code; 128 + N if signal N ended it, 127 if there is no such program.
        stdout: what it printed; bytes that are no UTF-8 are replaced by U+FFFD.
        stderr: the same of its standard error.
        seconds: from its start to its end, as seen from here.
    """

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    seconds: float


class _Stream:
    """Bytes of one stream and how far its lines have been handed out."""

    __slots__ = ("data", "scanned", "taken")

    def __init__(self) -> None:
        self.data = bytearray()
        self.taken = 0
        self.scanned = 0

    def line(self, over: bool) -> str | None:
        """The next line; None if none is complete yet, or if the stream is over and all was taken."""
        end = self.data.find(b"\n", self.scanned)
        if end < 0:
            self.scanned = len(self.data)
            if not over or self.taken == len(self.data):
                return None
            end = len(self.data)
        text = self.data[self.taken : end].decode(errors="replace")
        self.taken = self.scanned = min(end + 1, len(self.data))
        return text


class Running(ABC):
    """A command that runs on a board, with an open standard input.

    A transport's class calls `_feed`, `_exited`, `_ended` and `_failed` from whatever thread the news comes in, and has the
    hooks `_write`, `_close_stdin`, `_kill` and `_drop`.

    Args:
        argv: the command.
        where: the board in words, for messages: "board 'pi5' (pi@10.0.0.7)".
        marked: whether the output begins with the process number that `command_line` prints.
        sink: takes standard output in place of keeping it.
    """

    def __init__(
        self, argv: Sequence[str], where: str, *, marked: bool = False, sink: Callable[[bytes], object] | None = None
    ) -> None:
        self.argv = tuple(argv)
        self.where = where
        self.pid: int | None = None
        self._changed = threading.Condition()
        self._streams = (_Stream(), _Stream())
        self._held: bytearray | None = bytearray() if marked else None
        self._sink = sink
        self._code: int | None = None
        self._done = False
        self._failure: DeviceError | None = None
        self._killed = False
        self.ends_there = True
        self._started = self._news = time.monotonic()

    @property
    def what(self) -> str:
        """The command in words, cut to what a message can take."""
        text = shlex.join(self.argv)
        return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"

    def write(self, data: bytes) -> None:
        """Write to the command's standard input; blocks while the command does not read.

        Raises:
            DeviceError: the command has ended, closed its input, or the connection is lost.
        """
        with self._changed:
            self._raise_failure()
            if self._is_over():
                raise DeviceError(f"{self.what} on {self.where} has ended and takes no more input")
        try:
            self._write(data)
        except DeviceError:
            with self._changed:  # that the connection is lost may be known a moment later
                self._changed.wait_for(self._is_over, 1.0)
                self._raise_failure()
            raise

    def close_stdin(self) -> None:
        """End the command's standard input; does nothing if that is closed or lost already."""
        try:
            self._close_stdin()
        except (DeviceError, OSError) as error:
            log.debug("closing the input of %s: %s", self.what, error)

    def readline(self, timeout_s: float) -> str:
        """The next line of standard output without its newline; "" at the end of the output.

        Raises:
            TimeoutError: no line came within the time; the command runs on.
            DeviceError: the connection is lost.
        """
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                over = self._is_over()
                line = self._streams[0].line(over)
                if line is not None:
                    return line
                self._raise_failure()
                if over:
                    return ""
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError(f"{self.what} on {self.where} printed no line within {timeout_s:g} s")
                self._changed.wait(min(left, 0.2))

    def wait(self, timeout_s: float) -> Completed:
        """Wait for the command's end.

        Raises:
            DeviceError: it took longer, and was ended there; it printed more than `OUTPUT_LIMIT_BYTES`, and was ended; the
                connection is lost.
        """
        return self.follow(timeout_s, None)

    def follow(self, timeout_s: float, on_line: Callable[[str], None] | None) -> Completed:
        """Wait for the command's end and meanwhile hand over the lines of both its outputs; raises as `wait` does."""
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                over = self._is_over()
                lines = self._take_lines(over) if on_line is not None else []
                if over and not lines:
                    break
                left = deadline - time.monotonic()
                if not lines and left > 0:
                    self._changed.wait(min(left, 0.2))
                    continue
            if left <= 0 and not over:
                raise self._late(timeout_s)
            for line in lines:
                if on_line is not None:
                    on_line(line)
        if self._failure is not None:
            self.kill()
        self._raise_failure()
        code = -1 if self._code is None else self._code
        return Completed(self.argv, code, self._printed(0), self._printed(1), self._news - self._started)

    def kill(self) -> None:
        """End the command on the board with all that it started; does nothing if it has ended, and never raises."""
        try:
            self._end_there()
        except Exception as error:
            log.debug("ending %s on %s: %s", self.what, self.where, error)

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Hand bytes to the command; raises DeviceError if it takes none."""

    @abstractmethod
    def _close_stdin(self) -> None:
        """End the command's standard input."""

    @abstractmethod
    def _kill(self) -> None:
        """End the command on the board within seconds; raises if that is not known to have worked."""

    @abstractmethod
    def _drop(self) -> None:
        """Let go here of what the command holds, after `_kill`, whether that worked or not."""

    def _feed(self, data: bytes, stream: int = 0) -> None:
        """Take bytes of standard output (0) or standard error (1)."""
        with self._changed:
            self._news = time.monotonic()
            if stream == 0 and self._held is not None:
                self._held += data
                data = self._release(over=False)
            self._keep(data, stream)
            self._changed.notify_all()

    def _exited(self, code: int) -> None:
        """Note the exit code; output may still come."""
        with self._changed:
            if self._code is None and not self._done:
                self._code = code
                self._news = time.monotonic()
            self._changed.notify_all()

    def _ended(self) -> None:
        """Note that no more output comes and nothing is left to wait for."""
        with self._changed:
            if not self._done and self._failure is None:
                self._keep(self._release(over=True), 0)
                self._done = True
                if self._code is None and self._killed:
                    self._code = 128 + 9
                elif self._code is None:
                    self._failure = DeviceError(f"{self.what} on {self.where} ended without an exit code")
            self._changed.notify_all()

    def _failed(self, error: DeviceError) -> None:
        """Note that the command's end will never be known: the connection is lost."""
        with self._changed:
            if not self._done and self._failure is None:
                self._failure = error
            self._changed.notify_all()

    def _printed(self, stream: int) -> str:
        """All that was kept of standard output (0) or standard error (1)."""
        with self._changed:
            return bytes(self._streams[stream].data).decode(errors="replace")

    def _wait_for_pid(self, timeout_s: float) -> int | None:
        """The process number, which comes with the first output."""
        with self._changed:
            self._changed.wait_for(lambda: self.pid is not None or self._is_over(), timeout_s)
            return self.pid

    def _release(self, over: bool) -> bytes:
        """What of the held beginning of the output is the command's own."""
        if self._held is None:
            return b""
        if found := _MARKED.search(self._held):
            self.pid = int(found[1])
            data = bytes(self._held[found.end() :])
        elif over or len(self._held) > _MARK_WITHIN_BYTES:
            data = bytes(self._held)
        else:
            return b""
        self._held = None
        return data

    def _keep(self, data: bytes, stream: int) -> None:
        if not data or self._failure is not None:
            return
        if stream == 0 and self._sink is not None:
            try:
                self._sink(data)
            except OSError as error:
                self._failure = DeviceError(f"what {self.what} on {self.where} prints cannot be kept here: {error.strerror}")
            return
        self._streams[stream].data += data
        if sum(len(one.data) for one in self._streams) > OUTPUT_LIMIT_BYTES:
            self._failure = DeviceError(
                f"{self.what} on {self.where} printed more than {OUTPUT_LIMIT_BYTES >> 20} MiB and was ended",
                hint="let it write into a file there and pull that",
            )

    def _take_lines(self, over: bool) -> list[str]:
        lines: list[str] = []
        for stream in self._streams:
            while (line := stream.line(over)) is not None:
                lines.append(line)
        return lines

    def _is_over(self) -> bool:
        if self._done or self._failure is not None:
            return True
        return self._code is not None and time.monotonic() - self._news > _GRACE_S

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(self._failure.message, self._failure.hint)

    def _end_there(self) -> None:
        with self._changed:
            if self._killed or self._done:
                return
            self._killed = True
            lives = self._code is None
        try:
            if lives and self.ends_there:
                self._kill()
                with self._changed:
                    self._changed.wait_for(self._is_over, _GRACE_S)
        finally:
            self._drop()

    def _late(self, timeout_s: float) -> DeviceError:
        try:
            self._end_there()
            fate = "was ended there"
        except Exception as error:
            log.debug("ending %s on %s: %s", self.what, self.where, error)
            fate = "could not be ended there"
        return DeviceError(
            f"{self.what} on {self.where} took longer than the limit of {timeout_s:g} s and {fate}",
            hint="raise the time limit, or look why it hangs on the board",
        )
