"""A connection to a board: opened, closed, and commands run over it."""

from __future__ import annotations

import logging
import posixpath
import re
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from edgewright.devices.running import Completed, Running
from edgewright.errors import DeviceError

if TYPE_CHECKING:
    from typing_extensions import Self

    from edgewright.devices.boards import Board

__all__ = ["Link"]

log = logging.getLogger("edgewright")

_KILL = 'kill -9 "-$1" 2>/dev/null || { pkill -9 -P "$1"; kill -9 "$1"; } 2>/dev/null; exit 0'
_KILL_S = 5.0
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CHUNK_BYTES = 1 << 17


class Link(ABC):
    """What of a transport runs commands; see `Transport`.

    Args:
        board: whose `address` and `options` say how to get there; nothing is connected yet.
    """

    caps: ClassVar[frozenset[str]] = frozenset()
    """Of "stdin" (a running command's input), "kill" (ends it there) and "symlinks" (the board's files may be links)."""

    options: ClassVar[Mapping[str, str]] = {}
    """The options of a board's profile that it takes, each with a line on what it is for."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self._is_open = False
        self._home: str | None = None
        self._running: weakref.WeakSet[Running] = weakref.WeakSet()

    @property
    def where(self) -> str:
        """The board in words, for messages."""
        return f"board '{self.board.name}'" + (f" ({self.board.address})" if self.board.address else "")

    def open(self) -> None:
        """Connect; does nothing if it is connected.

        Raises:
            DeviceError: the board cannot be reached; the message says why and the hint what to do.
            MissingPackageError: the transport needs an extra that is not installed.
        """
        if not self._is_open:
            if unknown := sorted(set(self.board.options) - set(self.options)):
                known = ", ".join(self.options) or "none"
                raise DeviceError(
                    f"the profile of {self.where} has options that transport '{self.board.transport}' does not know: "
                    f"{', '.join(unknown)}",
                    hint=f"known: {known}",
                )
            self._open()
            self._is_open = True

    def close(self) -> None:
        """End what still runs there and disconnect; does nothing if it is not connected."""
        if self._is_open:
            for running in list(self._running):
                running.kill()
            self._is_open = False
            self._home = None
            self._close()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, argv: Sequence[str], *, env: Mapping[str, str] | None = None) -> Running:
        """Start a command and return at once.

        Args:
            argv: program and arguments, passed on unchanged: no shell sees them.
            env: variables that are set for it on top of those it has there.

        Raises:
            DeviceError: the connection is lost or not open, or the command cannot be passed on.
        """
        return self._begin(argv, env)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float = 60,
        env: Mapping[str, str] | None = None,
        stdin: bytes = b"",
        heard: bool = False,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a command to its end; an exit code other than 0 is no error here.

        Args:
            argv: program and arguments.
            timeout_s: the command is ended there after this time.
            env: variables that are set for it.
            stdin: what it reads.
            heard: leave its input open until it has ended, so that it hears the end of this run or of the connection there.
            on_line: called with each line of standard output and standard error as it comes, without its newline.

        Raises:
            DeviceError: the time limit passed, the connection is lost, or the command cannot be passed on.
        """
        running = self._begin(argv, env)
        try:
            if stdin:  # in a thread of its own: a command that does not read must still meet its time limit
                threading.Thread(target=_write_all, args=(running, stdin), daemon=True).start()
            elif not heard:
                running.close_stdin()
            return running.follow(timeout_s, on_line)
        finally:
            running.kill()

    def home(self) -> str:
        """The board's home folder: where paths that are not absolute begin."""
        if self._home is None:
            self._home = self._find_home()
        return self._home

    def expand(self, path: str) -> str:
        """A path there, made absolute and without a "~"."""
        if path == "~" or path.startswith("~/"):
            path = path[2:]
        return posixpath.join(self.home(), path) if not path.startswith("/") else path

    def number(self, option: str, default: float) -> float:
        """A positive number from the board's options; raises DeviceError if it is none."""
        text = self.board.options.get(option, "")
        try:
            value = float(text) if text else default
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise DeviceError(f"options.{option} of {self.where} is '{text}', no number above 0", hint="correct its profile")
        return value

    @abstractmethod
    def _open(self) -> None:
        """Connect; raises DeviceError with the reason."""

    @abstractmethod
    def _close(self) -> None:
        """Disconnect; raises nothing, even if the connection is lost."""

    @abstractmethod
    def _start(self, argv: tuple[str, ...], env: Mapping[str, str], sink: Callable[[bytes], object] | None) -> Running:
        """Start a command; `sink` takes its standard output in place of the `Running` when it is given."""

    def _begin(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, sink: Callable[[bytes], object] | None = None
    ) -> Running:
        if not self._is_open:
            raise DeviceError(f"the connection to {self.where} is not open")
        words = (*argv, *(f"{name}={value}" for name, value in (env or {}).items()))
        if not argv or not argv[0] or any("\0" in word for word in words):
            raise DeviceError(f"no command that {self.where} could run: {list(argv)!r}")
        if env and ("=" in argv[0] or any(not _VARIABLE.fullmatch(name) for name in env)):
            raise DeviceError(f"no command with variables that {self.where} could run: {list(words)!r}")
        running = self._start(tuple(argv), dict(env or {}), sink)
        self._running.add(running)
        return running

    def _end_group(self, pid: int) -> None:
        """End a process there and all of its group, in a command of its own; raises DeviceError if that is not answered."""
        killer = self._start_killer(("sh", "-c", _KILL, "sh", str(pid)))
        killer.ends_there = False  # one that hangs is not ended by another
        killer.close_stdin()
        killer.wait(_KILL_S)

    def _start_killer(self, argv: tuple[str, ...]) -> Running:
        """Start a command that ends another, as `_start` does, or sooner give up."""
        return self._start(argv, {}, None)

    def _find_home(self) -> str:
        home = self._script('printf %s "$HOME"', what="finding the home folder").stdout
        if not home.startswith("/"):
            raise DeviceError(
                f"{self.where} names no home folder", hint="give the board's profile a folder with an absolute path"
            )
        return home

    def _script(self, script: str, *arguments: str, what: str, timeout_s: float = 60, allowed: tuple[int, ...] = ()) -> Completed:
        """Run lines of POSIX shell there; an exit code that is neither 0 nor allowed is an error."""
        done = self.run(["sh", "-c", script, "sh", *arguments], timeout_s=timeout_s)
        if done.code not in (0, *allowed):
            raise self._refused(what, done)
        return done

    def _refused(self, what: str, done: Completed) -> DeviceError:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.code}"]
        return DeviceError(f"{what} failed on {self.where}: {lines[-1][:300]}")


def _write_all(running: Running, data: bytes) -> None:
    try:
        for begin in range(0, len(data), _CHUNK_BYTES):
            running.write(data[begin : begin + _CHUNK_BYTES])
    except (DeviceError, OSError) as error:
        log.debug("the input of %s: %s", running.what, error)
    running.close_stdin()
