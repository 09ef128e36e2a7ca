"""A board's lock: a process there (`hold`) keeps it while it hears us, and sets the board's clock governor."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from edgewright.devices.boards import Board
from edgewright.devices.programs import board_failure
from edgewright.devices.running import Running
from edgewright.errors import DeviceBusyError, DeviceError

__all__ = ["ANSWER_S", "SILENCE_S", "Lock", "taken"]

log = logging.getLogger("edgewright")

BEAT_S = 15.0
SILENCE_S = 120.0
"""How often the holder of a board's lock is heard there, and after which silence the board lets go."""

ANSWER_S = 60.0
"""What a short command may take, on a slow board too."""

_BEAT = b"\n"


class Lock:
    """The lock of a board while this run has it; made by `taken`.

    Attributes:
        lost: why the board may have let go of it; empty while it hears us.
    """

    def __init__(self, board: Board, folder: str, running: Running) -> None:
        self.lost = ""
        self._board, self._folder = board, folder
        self._running = running
        self._writing = threading.Lock()

    @contextmanager
    def governed(self, governor: str, root: str = "/") -> Iterator[str]:
        """Have the board's clocks governed so while the block runs.

        The process there that keeps the lock sets them, and sets them back however this run or its connection ends. If that
        process is killed as well, whoever takes the lock next has them set back.

        Args:
            governor: name of a cpufreq governor, "performance".
            root: folder there that stands for /.

        Yields:
            Why not all clocks are governed so, in words; empty if they are.

        Raises:
            DeviceError: the lock is lost.
        """
        of = f"the clock governor of {self._board.name}"
        done = self._ask(governor=governor, root=root)
        remark = ""
        if done["failed"]:
            was = ", ".join(sorted(set(done["was"].values()) - {governor})) or "not known"
            remark = f"{of} is {was} and not {governor}, and could not be set ({done['failed']})"
        elif not done["was"]:
            remark = f"{of} could not be set to {governor}: the board has no cpufreq policy below {root.rstrip('/')}/sys"
        try:
            yield remark
        finally:
            try:
                if done["changed"] and (failed := self._ask(governor="")["failed"]):
                    log.warning("%s was not set back: %s", of, failed)
            except DeviceError as error:
                log.warning("%s is set back by the board itself when it misses this run: %s", of, error.message)

    def take(self, wait_s: float, on_wait: Callable[[str], None] | None) -> None:
        """Read what the board says of its lock until it is ours.

        Raises:
            DeviceBusyError: another has it still when the time is over.
            DeviceError: the board's Python cannot run, or the connection broke.
        """
        until, silent = time.monotonic() + wait_s + ANSWER_S, 0
        while True:
            try:
                line = self._running.readline(max(0.1, min(BEAT_S, until - time.monotonic())))
            except TimeoutError as error:
                if time.monotonic() >= until:
                    raise DeviceError(
                        f"{self._board.name} did not say within {wait_s + ANSWER_S:g} s whether it is free",
                        hint="see whether it is overloaded, or restart it",
                    ) from error
                self._running.write(_BEAT)  # while it waits the board must hear that we are here
                continue
            silent = 0 if line else silent + 1
            try:
                said: dict[str, Any] = dict(json.loads(line)) if line else {}
            except (ValueError, TypeError):
                continue  # a greeting of the board's shell
            if said.get("held"):
                if left := said.get("left"):
                    log.warning(
                        "a run that was killed left the clock governor of %s set, and it cannot be set back: %s",
                        *(self._board.name, left),
                    )
                return
            if "waiting" in said:
                if on_wait:
                    on_wait(f"{_by(self._board, said['waiting'])}: waiting up to {wait_s:g} s")
            elif "holder" in said:
                raise DeviceBusyError(
                    f"{_by(self._board, said['holder'])}{f', still after {wait_s:g} s' if wait_s else ''}",
                    hint="try again when that is done, or wait for it with --wait SECONDS",
                )
            elif silent > 5:  # its output is at its end, these are no empty lines of a greeting
                self._running.close_stdin()
                raise board_failure(self._board, self._running.wait(5), f"take the lock in {self._folder}")

    def beat(self, stop: threading.Event) -> None:
        """Let the board hear every `BEAT_S` that its holder lives; note in `lost` if that cannot be told any more."""
        while not stop.wait(BEAT_S):
            try:
                self._write(_BEAT)
            except (DeviceError, OSError) as error:
                self.lost = str(error)
                return

    def let_go(self) -> None:
        """End the process there: by the end of its input, else by a signal."""
        with suppress(DeviceError, OSError, TimeoutError):
            self._running.close_stdin()
            self._running.wait(5)
        self._running.kill()

    def _ask(self, **request: str) -> dict[str, Any]:
        """What the process there answers to a request.

        Raises:
            DeviceError: it has ended, says nothing, or the connection broke.
        """
        self._write(json.dumps(request).encode() + b"\n")
        try:
            line = self._running.readline(ANSWER_S)
            said: dict[str, Any] = json.loads(line)
        except (TimeoutError, ValueError) as error:
            raise DeviceError(f"what holds the lock of {self._board.name} does not answer", hint="run it again") from error
        if "failed" not in said:
            raise DeviceError(f"the lock of {self._board.name} was lost: {said.get('lost', line)}", hint="run it again")
        return said

    def _write(self, data: bytes) -> None:
        """Write one line; two threads do."""
        with self._writing:
            self._running.write(data)


@contextmanager
def taken(board: Board, folder: str, running: Running, wait_s: float, on_wait: Callable[[str], None] | None) -> Iterator[Lock]:
    """Have a board's lock while the block runs.

    Args:
        board: its profile.
        folder: ours there.
        running: `hold`, as it has just been started there.
        wait_s: seconds to wait for another run to end; 0 refuses at once.
        on_wait: told once who is waited for.

    Raises:
        DeviceBusyError: another has it still when the time is over.
        DeviceError: the board's Python cannot run, or the connection broke.
    """
    lock = Lock(board, folder, running)
    with ExitStack() as stack:
        stack.callback(lock.let_go)
        lock.take(wait_s, on_wait)
        stop = threading.Event()
        beat = threading.Thread(target=lock.beat, args=(stop,), name="edgewright lock", daemon=True)
        beat.start()
        stack.callback(beat.join, 5)
        stack.callback(stop.set)
        yield lock


def _by(board: Board, holder: Mapping[str, Any]) -> str:
    """Who holds a board, as the begin of a sentence."""
    if not holder:
        return f"the board {board.name} is in use by another run"
    who = f"{holder.get('user')} on {holder.get('host')}, process {holder.get('pid')}"
    return f"the board {board.name} is in use by {who}, since {holder.get('since')}: {holder.get('what')}"
