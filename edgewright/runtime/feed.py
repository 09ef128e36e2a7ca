"""One source's side of a stream: reading, windows, preparing, arrays that are used again, frozen cameras."""

from __future__ import annotations

import contextlib
import time
import zlib
from dataclasses import replace
from typing import Any

import numpy as np

from edgewright.errors import ShapeError
from edgewright.runtime.accounting import Lane
from edgewright.runtime.answers import Answerer
from edgewright.runtime.frames import Array, Frame, Source, Tell
from edgewright.runtime.lanes import Buffer, Item, failing
from edgewright.runtime.prepare import Prepare
from edgewright.runtime.windows import Window, Windower, Windowing

__all__ = ["Feed"]

_FROZEN_S = 2.0
_SPARE = 40
_JUDGED = 3, 6
"""Inferences and frames after which decoding threads are chosen: a file that is opened anew decodes these frames again."""


class Feed:
    """A source with all that belongs to it alone.

    Args:
        number: its lane in the buffer.
        name: in the account and in messages.
        source: read by the thread that calls `run`.
        prepare: for this source alone.
        answerer: for this source alone.
        window: how samples become windows; None for images and single samples.
        early: frames may be prepared before they wait: for sources that wait for room, which loses none of this work.
        keep: items carry their images and samples to the end, so that each frame has an array of its own.
        rate_hz: frames per second that are taken at most.
        downscale: longest side of an image in pixels.
        tell: told of a frozen camera.
    """

    def __init__(
        self,
        number: int,
        name: str,
        source: Source,
        *,
        prepare: Prepare,
        answerer: Answerer,
        window: Windowing | None,
        early: bool,
        keep: bool,
        rate_hz: float | None,
        downscale: int | None,
        tell: Tell,
    ) -> None:
        self.number, self.source, self.lane = number, source, Lane(name)
        self.prepare, self.answerer = prepare, answerer
        self.last_ns: int = 0
        self.over = self.reading = False
        self._windower = Windower(window) if window is not None and source.kind == "sensor" else None
        self.early, self._keep, self._tell = early, keep, tell
        self._downscale = downscale
        self._period_ns = None if rate_hz is None else int(1e9 / rate_hz)
        self._due_ns: int | None = None
        self._raw: Array | None = None
        self._raw_spare: list[Array] = []
        self._ready_spare: list[Array] = []
        self._seen = self._alike = self._skipped = self._broken = 0
        self._balanced = not (early and source.adapts)

    def run(self, buffer: Buffer) -> None:
        """Read until the source ends or is closed.

        Raises:
            EdgewrightError: the source broke off, or gives what no stream can use.
        """
        try:
            start = time.monotonic_ns()
            while not buffer.stopped and (frame := self._read()) is not None:
                self.last_ns = frame.captured_ns
                self.lane.stages["capture"].add(time.monotonic_ns() - start)
                for item in self._items(frame, self.early and buffer.waiting):
                    self._enter(buffer, item)
                self._count_skipped()
                self._balance()
                start = time.monotonic_ns()
            if self._windower is not None:
                for window in self._windower.flush():
                    self._enter(buffer, self._windowed(window))
        finally:
            self.over = True
            buffer.finish(self.number)
            self._count_skipped()

    def make_ready(self, item: Item) -> None:
        """Prepare a frame; what is wrong with it stands in the item."""
        start, into = time.monotonic_ns(), None
        with contextlib.suppress(IndexError):
            into = self._ready_spare.pop()
        with failing(item):
            item.ready = self.prepare(item.frame.data, into)
        item.prepare_ns = time.monotonic_ns() - start
        self.lane.stages["prepare"].add(item.prepare_ns)

    def reuse(self, item: Item) -> None:
        """A frame has ended: its arrays are free for another one."""
        if item.ours and len(self._raw_spare) < _SPARE:
            self._raw_spare.append(item.frame.data)
        # What is not quick may be a view of something else.
        if self.prepare.quick and item.ready is not None and item.ready.base is None and len(self._ready_spare) < _SPARE:
            self._ready_spare.append(item.ready)

    def to_json(self) -> dict[str, Any]:
        """The account."""
        threads = self.source.decode_threads
        return {"live": self.source.live, **({"decode_threads": threads} if threads else {}), **self.lane.to_json()}

    def _balance(self) -> None:
        """Once: have a file decoded on two threads if its frames take much longer than the model.

        Two threads cost more in all and take the model's core, so a little longer is not enough. The first frames are slow
        ones: the lower quartile of so few is nearer to the rest than their median.
        """
        stages = self.lane.stages
        if self._balanced or stages["infer"].count < _JUDGED[0] or stages["capture"].count < _JUDGED[1]:
            return
        self._balanced = True
        capture, prepare, infer = (stages[name].percentile(0.25) or 0.0 for name in ("capture", "prepare", "infer"))
        if capture + prepare > 1.5 * infer:
            self.source.decode_on(2)

    def _read(self) -> Frame | None:
        self.reading = True
        try:
            return self.source.read(self._raw)
        finally:
            self.reading = False

    def _enter(self, buffer: Buffer, item: Item) -> None:
        self.lane.captured += 1
        item.entered_ns = time.monotonic_ns()
        lost = buffer.put(item)
        if lost is not None:
            self.reuse(lost)

    def _items(self, frame: Frame, busy: bool) -> list[Item]:
        """What a frame becomes: nothing where it is one too many, windows for sensors, else itself.

        It is prepared here if the workers are busy; one that waits for it prepares it itself.
        """
        if self._windower is not None:
            try:
                return [self._windowed(window) for window in self._windower.push(frame)]
            except ShapeError as error:
                return [Item(self.number, frame, error=error.message)]
        if self._too_many(frame):
            self.lane.captured += 1
            self.lane.drop("rate")
            return []
        item = Item(self.number, frame)
        if self.source.kind == "image":
            self._compare(frame)
            item.frame = self._smaller(frame)
            item.image = item.frame.data if self._keep else None
        if busy:
            self.make_ready(item)
        self._next_raw(frame.data, item)
        return [item if self._keep else _let_go(item)]

    def _next_raw(self, data: Array, item: Item) -> None:
        """Choose what the next frame is read into: the same array again unless this frame takes it along."""
        if self.source.kind != "image" or item.image is data:
            return
        if item.ready is not None or item.frame.data is not data:
            fits = self._raw is not None and self._raw.shape == data.shape
            self._raw = self._raw if fits else np.empty_like(data)
            return
        item.ours = data is self._raw
        if item.ours or self._raw is None or self._raw.shape != data.shape:
            self._raw_spare = [array for array in self._raw_spare if array.shape == data.shape]
            self._raw = self._raw_spare.pop() if self._raw_spare else np.empty_like(data)

    def _smaller(self, frame: Frame) -> Frame:
        """The frame with its image no larger than was asked for."""
        height, width = frame.data.shape[:2]
        longest = max(height, width)
        if self._downscale is None or longest <= self._downscale:
            return frame
        import cv2

        size = (max(1, round(width * self._downscale / longest)), max(1, round(height * self._downscale / longest)))
        return replace(frame, data=cv2.resize(frame.data, size, interpolation=cv2.INTER_AREA))

    def _windowed(self, window: Window) -> Item:
        frame = Frame(window.data, window.index, window.captured_ns, window.recorded_ns)
        item = Item(self.number, frame, fresh=window.fresh)
        if self.early:
            self.make_ready(item)
        return item if self._keep else _let_go(item)

    def _too_many(self, frame: Frame) -> bool:
        """Whether a frame comes before its time under a frame rate that was asked for."""
        if self._period_ns is None:
            return False
        now = frame.captured_ns if self.source.live or frame.recorded_ns is None else frame.recorded_ns
        if self._due_ns is None:
            self._due_ns = now
        slack = self._period_ns // 100
        if self._due_ns - now > self._period_ns + 2 * slack:
            self._due_ns = now  # the next one is due a period after one that was taken: time that is further back began anew
        if now < self._due_ns - slack:
            return True
        self._due_ns += self._period_ns * max(1, (now - self._due_ns) // self._period_ns)
        return False

    def _compare(self, frame: Frame) -> None:
        """Count frames that equal the one before, and tell of a live source that has frozen."""
        digest = _digest(frame.data)
        if digest != self._seen:
            self._seen, self._alike = digest, 0
            return
        self.lane.duplicates += 1
        self._alike += 1
        enough = max(5, round(_FROZEN_S / (self.source.period_s or 0.04)))
        if self._alike == enough and self.source.live:
            self._tell(f"{self.lane.name} has sent the same picture {enough} times: it may have frozen")

    def _count_skipped(self) -> None:
        """Frames that the source itself let go count as captured, and as dropped by it."""
        skipped, broken = self.source.skipped, self.source.broken
        new = {"source": skipped - self._skipped, "broken": broken - self._broken}
        self._skipped, self._broken = skipped, broken
        if self._windower is not None:
            left_out = {name: count for name, count in (("skipped", skipped), ("broken", broken)) if count}
            self.lane.samples = {**self._windower.stats(), **left_out, **self.source.counts()}
            return
        self.lane.samples = self.source.counts()
        for why, count in new.items():
            if count > 0:
                self.lane.captured += count
                self.lane.drop(why, count)


def _let_go(item: Item) -> Item:
    """An item that is prepared keeps the shape of its sample alone: many may wait."""
    if item.ready is not None and item.image is None:
        data = item.frame.data
        item.frame = replace(item.frame, data=np.ndarray(data.shape, data.dtype, b"\0" * data.itemsize, 0, (0,) * data.ndim))
    return item


def _digest(image: Array) -> int:
    """A checksum of about 64 by 64 pixels of an image."""
    rows, columns = (max(1, size // 64) for size in image.shape[:2])
    if image.ndim == 3 and image.flags.c_contiguous:
        image = image.view(f"V{image.itemsize * image.shape[2]}")[..., 0]  # pixels are copied as one, which is quicker
    return zlib.crc32(image[::rows, ::columns].tobytes())
