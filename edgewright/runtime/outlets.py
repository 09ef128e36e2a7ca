"""Sinks in threads of their own behind bounded queues: a slow or dead one costs its own results, and never the stream."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import replace
from typing import Any

from edgewright.errors import EdgewrightError
from edgewright.runtime.frames import Result, Sink, Tell

__all__ = ["Outlet"]

_ROOM, _ROOM_FOR_IMAGES = 64, 8
_PATIENCE_S = 2.0
_CLOSING_S = 2.5


class Outlet:
    """One sink, its queue and its account: written + lost + waiting = results given.

    Args:
        name: the sink's address.
        sink: taken over, and closed by `close`.
        patient: wait up to two seconds for room rather than lose a result; for recorded sources, which can wait.
        tell: told of a sink's first failure, and when it works again.
    """

    def __init__(self, name: str, sink: Sink, *, patient: bool, tell: Tell) -> None:
        self.name, self.sink = name, sink
        self.given = self.written = self.lost = 0
        self.error = ""
        self._patient, self._tell = patient, tell
        self._failing = self._stuck = self._late = self._over = False
        self._room = _ROOM_FOR_IMAGES if sink.wants_images else _ROOM
        self._queue: queue.Queue[Result | None] = queue.Queue(self._room)
        self._lock = threading.Lock()
        sink.tell = lambda text: tell(f"{name}: {text}")
        self._thread = threading.Thread(target=self._write, name=f"sink {name}", daemon=True)
        self._thread.start()

    def put(self, result: Result) -> None:
        """Hand over a result; it is lost, and counted, if there is no room for it."""
        self.given += 1
        if result.image is not None and not self.sink.wants_images:
            result = replace(result, image=None)
        end = time.monotonic() + _PATIENCE_S
        while True:
            waits = self._patient and not self._stuck and time.monotonic() < end
            try:
                self._queue.put(result, waits, 0.1)
                self._stuck = False
                return
            except queue.Full:
                if not waits:
                    break
        self._stuck = True
        self._no_room()

    def hurry(self) -> None:
        """Wait for room no more: the stream is stopping."""
        self._patient = False

    def close(self) -> None:
        """Write what waits, for two seconds at most, and close the sink; what is left over is lost and counted."""
        end = time.monotonic() + _PATIENCE_S
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=_PATIENCE_S)
        self._thread.join(max(0.0, end - time.monotonic()))
        self._over = True
        self._thread.join(_CLOSING_S)
        if self._thread.is_alive():  # it is left to itself: its thread ends with the process
            self.error = f"it did not close within {_CLOSING_S:g} s: what it holds may be lost"
            self._tell(f"{self.name}: {self.error}")
        with self._lock:
            self.lost = self.given - self.written
        if self.lost and not self.error:
            self.error = "there was no time to write them"

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {"written": self.written, "lost": self.lost, **({"error": self.error} if self.error else {})}

    def _write(self) -> None:
        while (result := self._queue.get()) is not None and not self._over:
            try:
                self.sink.write(result)
            except EdgewrightError as error:
                self._failed(error.message)
            except Exception as error:
                self._failed(f"{type(error).__name__}: {error}")
            else:
                with self._lock:
                    self.written += 1
                if self._failing:
                    self._failing = False
                    self._tell(f"{self.name} takes results again; {self.lost} were lost")
        try:
            undelivered = self.sink.close()
        except Exception as error:
            undelivered = 0
            self.error = str(error) if isinstance(error, (EdgewrightError, OSError)) else f"{type(error).__name__}: {error}"
            self._tell(f"{self.name} could not be closed: {self.error}")
        if undelivered and not self.error:
            self.error = "nobody has confirmed them"
        with self._lock:
            self.written -= undelivered

    def _failed(self, why: str) -> None:
        """The sink could not write: told when it begins, not for every result."""
        with self._lock:
            self.lost, self.error = self.lost + 1, why
        if not self._failing:
            self._failing = True
            self._tell(f"{self.name} loses results: {why}")

    def _no_room(self) -> None:
        """The sink is too slow: told once."""
        why = f"it is too slow: {self._room} results wait"
        with self._lock:
            self.lost, self.error = self.lost + 1, why
        if not self._late:
            self._late = True
            self._tell(f"{self.name} loses results: {why}")
