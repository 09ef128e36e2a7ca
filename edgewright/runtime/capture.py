"""What sources on OpenCV's VideoCapture share: decoding into a given array, live streams that reconnect, waiting at a pace."""

from __future__ import annotations

import atexit
import os
import re
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import numpy as np

from edgewright.errors import SourceError
from edgewright.runtime.frames import Array, Frame, Source

__all__ = ["Link", "LiveSource", "Pace", "decoded", "from_network", "opened", "plausible_rate", "without_password"]

Capture = Any  # a cv2.VideoCapture; cv2 is imported only when a source is opened

OPEN_S = 5.0
"""Seconds that a live source may take to open."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0
_CLOSE_S = 0.5
"""How long `close` waits for a thread that may be stuck in cv2."""


def decoded(capture: Capture, into: Array | None = None, *, grabbed: bool = False, name: str = "the stream") -> Array | None:
    """The next image of a capture: uint8 (height, width, 3), BGR; None where it has no more.

    Args:
        capture: an open cv2.VideoCapture.
        into: decoded into, and given back, if it has the image's shape and dtype and is contiguous and writable.
        grabbed: whether the image was grabbed before and has to be decoded only.
        name: what a message calls it.

    Raises:
        SourceError: the image has another dtype or number of channels than a stream can use.
    """
    fits = into is not None and into.dtype == np.uint8 and into.ndim == 3 and into.flags.c_contiguous and into.flags.writeable
    there, image = (capture.retrieve if grabbed else capture.read)(*([into] if fits else []))
    if not there or image is None:
        return None
    if image.ndim == 2:
        image = np.repeat(image[:, :, None], 3, axis=2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise SourceError(
            f"an image of {name} has shape {image.shape} and dtype {image.dtype}, expected are (height, width, 3) and uint8",
            hint="convert the stream to 8-bit BGR before it comes here",
        )
    if fits and image is not into and into is not None and image.shape == into.shape:
        np.copyto(into, image)
        return into
    return np.asarray(image)


def plausible_rate(capture: Capture) -> float | None:
    """Frames per second as a capture tells them; None where it tells none, or a clock's ticks instead."""
    import cv2

    rate = float(capture.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate <= 1000 else None


def without_password(url: str) -> str:
    """A URL as messages may show it: its user and password become ***."""
    return re.sub(r"(?<=://)[^/?#]*@", "***@", url)


def opened(name: str | int, backend: int, params: Sequence[int] = (), *, threads: int = 0) -> Capture:
    """An open VideoCapture: `params` are properties and values in turn, `threads` decode (0: as many as there are cores).

    Raises:
        SourceError: it cannot be opened.
    """
    import cv2

    more = [cv2.CAP_PROP_N_THREADS, threads] if threads and hasattr(cv2, "CAP_PROP_N_THREADS") else []
    try:
        capture = cv2.VideoCapture(name, backend, [*params, *more])
    except cv2.error as error:
        raise SourceError(f"OpenCV says: {error}".strip()) from error
    if not capture.isOpened():
        raise SourceError("OpenCV finds nothing that it can decode there")
    return capture


def from_network(url: str, silence_s: float, options: str) -> Capture:
    """A VideoCapture on FFmpeg whose calls return even if the server says nothing; OpenCV 5 takes time-outs here only.

    Our own clock judges first, so the time for reading is a second longer than it allows. FFmpeg's options are written as
    `name;value|name;value`.

    Raises:
        SourceError: it cannot be opened.
    """
    import cv2

    opening, reading = int(OPEN_S * 1000), int(silence_s * 1000) + 1000
    params = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, opening, cv2.CAP_PROP_READ_TIMEOUT_MSEC, reading]
    try:
        with _ffmpeg_options(options):
            return opened(url, cv2.CAP_FFMPEG, params, threads=1)
    except SourceError as error:
        raise SourceError(_unreachable(url) or str(error)) from error


def _unreachable(url: str) -> str:
    """Why nothing answers there, which OpenCV does not tell; empty if something does."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"rtsp": 554, "rtsps": 322, "https": 443}.get(parts.scheme, 80)
        socket.create_connection((parts.hostname or "", port), timeout=1).close()
    except (OSError, ValueError) as error:
        return f"its host does not answer ({error})"
    return ""


_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_options_changed = threading.Condition()
_options_users: list[str] = []


@contextmanager
def _ffmpeg_options(options: str) -> Iterator[None]:
    """Set FFmpeg's options while something is opened: OpenCV reads them from the environment of the whole process.

    Openings with equal options run side by side, others wait; options that the user set in the environment stay.
    """
    with _options_changed:
        ours = bool(_options_users) or _OPTIONS not in os.environ
        if ours:
            _options_changed.wait_for(lambda: all(user == options for user in _options_users), OPEN_S)
            _options_users.append(options)
            os.environ[_OPTIONS] = options
    try:
        yield
    finally:
        if ours:
            with _options_changed:
                _options_users.remove(options)
                if not _options_users:
                    os.environ.pop(_OPTIONS, None)
                _options_changed.notify_all()


class Pace:
    """The clock of a recording that is played as a camera would have given it, one frame each `period_s`."""

    def __init__(self, period_s: float) -> None:
        self._period_ns = period_s * 1e9
        self._start_ns: float | None = None

    def wait(self, place: int, closed: threading.Event) -> int:
        """Wait until the frame at a place is due; the first one that is asked for is due at once.

        Returns:
            how many frames, from this one on, are over: the next one was due as well before anybody asked.
        """
        now_ns = time.monotonic_ns()
        if self._start_ns is None:
            self._start_ns = now_ns - place * self._period_ns
        late_ns = now_ns - (self._start_ns + place * self._period_ns)
        if late_ns < 0:
            closed.wait(-late_ns / 1e9)
        return max(0, int(late_ns // self._period_ns))


@dataclass(frozen=True, slots=True)
class Link:
    """How a live source is opened, and how long it is waited for.

    Args:
        name: what messages call it.
        capture: opens it; called in a thread of its own, as often as it is connected to.
        silence_s: seconds without a frame after which it counts as silent.
        retries: reconnections in a row without a frame before it is given up; None never gives up.
        ends: whether it may end by itself, as a file does; if not, an end is a break.
        hint: what to do if the first opening fails.
    """

    name: str
    capture: Callable[[], Capture]
    silence_s: float = 2.0
    retries: int | None = None
    ends: bool = False
    hint: str = ""


_running: weakref.WeakSet[_Connection] = weakref.WeakSet()


@atexit.register
def _end_threads() -> None:
    """Before Python ends: a daemon thread that comes back from cv2 while it does aborts the whole process."""
    until, running = time.monotonic() + _CLOSE_S, list(_running)
    for connection in running:
        connection.dropped = True
    for connection in running:
        connection.thread.join(max(0.0, until - time.monotonic()))


class _Connection:
    """One connection: a daemon thread that opens it, decodes, and keeps the newest frame only.

    Whoever gives it up sets `dropped` and never waits: cv2 may hold the thread, which frees all when cv2 lets it go.
    """

    def __init__(self, link: Link, changed: threading.Condition) -> None:
        self.state: Literal["opening", "open", "over"] = "opening"
        self.reason = ""
        self.heard_ns = time.monotonic_ns()
        self.frames = self.skipped = self.broken = 0
        self.rate: float | None = None
        self.dropped = False
        self._newest: tuple[Array, int] | None = None
        self._spare: Array | None = None
        self._changed = changed
        self.thread = threading.Thread(target=self._run, args=(link,), name=f"edgewright {link.name}", daemon=True)
        self.thread.start()
        _running.add(self)

    def take(self, oldest_ns: int) -> tuple[Array, int] | None:
        """The newest frame and when it came; None if there is none, or it came before `oldest_ns`: nobody was here to take it."""
        newest, self._newest = self._newest, None
        stale = newest is not None and newest[1] < oldest_ns
        self.skipped += stale
        return None if stale else newest

    def _run(self, link: Link) -> None:
        capture = None
        try:
            capture = link.capture()
            self.rate = plausible_rate(capture)
            with self._changed:
                self.state, self.heard_ns = "open", time.monotonic_ns()
                self._changed.notify_all()
            while not self.dropped and self._next(capture, link.silence_s):
                pass
        except Exception as error:
            # Whatever it was belongs into the reader's thread, as the reason of the break.
            self.reason = str(error).strip() or type(error).__name__
        finally:
            with self._changed:
                self.state = "over"
                self._changed.notify_all()
            if capture is not None:
                capture.release()

    def _next(self, capture: Capture, silence_s: float) -> bool:
        """Decode one frame and put it in the place of the newest, whose array is used again; False at the end."""
        began_ns = time.monotonic_ns()
        image = decoded(capture, self._spare)
        self._spare, self.broken = None, getattr(capture, "broken", 0)
        now_ns = time.monotonic_ns()
        if now_ns - began_ns > (silence_s + 0.9) * 1e9:
            # After its own time-out OpenCV 5 gives the frame before once more and calls it read.
            raise SourceError(f"it sent nothing for {silence_s:.1f} s")
        if image is None:
            return False
        with self._changed:
            if self._newest:
                self.skipped += 1
                self._spare = self._newest[0]
            self._newest = (image, now_ns)
            self.heard_ns, self.frames = now_ns, self.frames + 1
            self._changed.notify_all()
        return True


class LiveSource(Source):
    """A source whose frames come when they come: only the newest is kept, and a broken connection is made again.

    Args:
        link: how it is opened.

    Raises:
        SourceError: it cannot be opened, or does not answer within `OPEN_S`.
    """

    kind: ClassVar[Literal["image", "sensor"]] = "image"
    live = True
    notice = ""
    """Told at the first read: what was asked for and is not so."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._changed = threading.Condition()
        self._closed = False
        self._index = self._skipped_before = self._broken_before = self._failures = 0
        self._lost_ns: int | None = None
        self._told = ""
        self._connection = first = _Connection(link, self._changed)
        with self._changed:
            self._changed.wait_for(lambda: first.state != "opening", OPEN_S + 0.5)
        if wrong := f"it did not answer within {OPEN_S:g} s" if first.state == "opening" else first.reason:
            first.dropped = True
            raise SourceError(f"{link.name} cannot be opened: {wrong}", hint=link.hint)
        self.period_s = 1 / first.rate if first.rate else None

    @property
    def skipped(self) -> int:  # type: ignore[override]  # counted by the connection
        """How many frames came and were overwritten by newer ones before they were read."""
        return self._skipped_before + self._connection.skipped

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by the connection
        """How many images came damaged, where that can be seen."""
        return self._broken_before + self._connection.broken

    def read(self, into: Array | None = None) -> Frame | None:
        """See `Source.read`; `into` is not used: the image is decoded before anybody asks for it.

        Raises:
            SourceError: it could not be connected to in `retries` attempts in a row.
        """
        while True:
            with self._changed:
                if self._closed:
                    return None
                connection = self._connection
                if newest := connection.take(time.monotonic_ns() - int(self._link.silence_s * 1e9)):
                    break
                if not (broken := self._broken()):
                    self._changed.wait(self._patience_s())
                    continue
                if self._link.ends and connection.state == "over" and connection.frames and not connection.reason:
                    return None
            self._connect_again(broken)
        image, captured_ns = newest
        if self.notice:
            self.tell(self.notice)
            self.notice = ""
        if self._lost_ns is not None:
            self.tell(f"{self._link.name} sends again, after {(captured_ns - self._lost_ns) / 1e9:.1f} s")
        self._failures, self._lost_ns, self._told, self._index = 0, None, "", self._index + 1
        return Frame(image, self._index - 1, captured_ns)

    def close(self) -> None:
        """See `Source.close`; a thread that is stuck in cv2 is left to end by itself."""
        with self._changed:
            self._closed = self._connection.dropped = True
            self._changed.notify_all()
        if self._connection.thread is not threading.current_thread():
            self._connection.thread.join(_CLOSE_S)

    def _patience_s(self) -> float:
        """Seconds for which the connection may still say nothing."""
        allowed = OPEN_S + 0.5 if self._connection.state == "opening" else self._link.silence_s
        return max(0.0, allowed - (time.monotonic_ns() - self._connection.heard_ns) / 1e9)

    def _broken(self) -> str:
        """What is wrong with the connection, as it follows on the name; empty if nothing is."""
        connection = self._connection
        if connection.state == "over":
            if connection.frames:
                return f"broke off{f' ({connection.reason})' if connection.reason else ''}"
            return f"cannot be opened: {connection.reason}" if connection.reason else "ended without a frame"
        if self._patience_s() > 0:
            return ""
        if connection.state == "opening":
            return f"did not answer within {OPEN_S:g} s"
        return f"is open but sent nothing for {self._link.silence_s:.1f} s"

    def _connect_again(self, broken: str) -> None:
        """Tell what is wrong, once for each outage, wait longer each time, connect; an error if that was the last attempt."""
        link, old = self._link, self._connection
        old.dropped = True
        hopeless = link.ends and old.state == "over" and not self._index
        if hopeless or (link.retries is not None and self._failures >= link.retries):
            self.close()
            raise SourceError(
                f"{link.name} {broken}: no frame in {self._failures} reconnections, {self._index} frames came before",
                hint="see whether it still runs and is reachable, or allow more with retries=",
            )
        if broken != self._told:
            self.tell(f"{link.name} {broken}; connecting again")
        self._told = broken
        self._lost_ns = old.heard_ns if self._lost_ns is None else self._lost_ns
        wait_s = min(_FIRST_WAIT_S * 2 ** min(self._failures, 10), _LONGEST_WAIT_S)
        self._failures += 1
        with self._changed:
            if self._changed.wait_for(lambda: self._closed, wait_s):
                return
            self._skipped_before += old.skipped
            self._broken_before += old.broken
            self._connection = _Connection(link, self._changed)
