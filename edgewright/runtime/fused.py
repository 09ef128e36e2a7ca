"""Several sensors as one source: their samples fused by time."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar, Literal

from edgewright.declared import read_number, read_settings
from edgewright.errors import EdgewrightError, SourceError, UsageError
from edgewright.runtime.address import Address
from edgewright.runtime.frames import Array, Frame, Source, Tell
from edgewright.runtime.fusion import Fusion

__all__ = ["FusedSource"]

_ROOM = 1000


class FusedSource(Source):
    """Two or more sensors whose values stand side by side in each frame, on a common grid of time.

    Recorded sources are read in the order of their times; each live one has a thread of its own, and up to 1,000 fused frames
    wait to be taken, the oldest of which are let go (`skipped`).

    Args:
        sources: names and sources, in the order of their channels; taken over.
        rate_hz: see `Fusion`.
        max_skew_s: see `Fusion`.
        silent: see `Fusion`.
        align: see `Fusion`.

    Raises:
        UsageError: fewer than two, an image source, or a value that `Fusion` refuses.
    """

    kind: ClassVar[Literal["image", "sensor"]] = "sensor"

    def __init__(
        self,
        sources: Sequence[tuple[str, Source]],
        rate_hz: float,
        max_skew_s: float,
        *,
        silent: Literal["hold", "drop"] = "hold",
        align: Literal["shared", "first"] = "shared",
    ) -> None:
        for name, source in sources:
            if source.kind != "sensor":
                raise UsageError(f"{name} gives images, only sensors can be fused", hint="run it as a source of its own")
        self.fusion = Fusion([name for name, _ in sources], rate_hz, max_skew_s, silent=silent, align=align)
        self.live = any(source.live for _, source in sources)
        self.period_s, self.skipped = 1.0 / rate_hz, 0
        self._sources = list(sources)
        self._ready: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._closed, self._flushed = False, False
        self._times: dict[str, float] = dict.fromkeys(self.fusion.sources, -math.inf)
        self._zeros: dict[str, int] = {}
        self._reading = set(self.fusion.sources)
        self._error: EdgewrightError | None = None
        self._count = 0
        for name, source in self._sources:
            source.tell = self._teller(name)
        if self.live:
            for name, source in self._sources:
                threading.Thread(target=self._follow, args=(name, source), name=f"fuse {name}", daemon=True).start()

    @classmethod
    def of(cls, address: Address) -> FusedSource:
        """Fused sources have no address of their own.

        Raises:
            UsageError: always.
        """
        raise UsageError("sensors are fused by an option", hint="name them one by one and add --fuse rate=50,skew=0.2")

    @classmethod
    def parse(cls, sources: Sequence[tuple[str, Source]], text: str) -> FusedSource:
        """From text such as `rate=50,skew=0.2,silent=drop,align=first`; skew is 0.5 seconds if it is not given.

        Raises:
            UsageError: see the class; a key is unknown, or the rate is missing.
        """
        given = read_settings(text, "fusion", ("rate", "skew", "silent", "align"))
        if "rate" not in given:
            raise UsageError(f"fusion '{text}' has no rate", hint="write for example rate=50,skew=0.2")
        words: dict[str, Any] = {key: given[key] for key in ("silent", "align") if key in given}
        rate = float(read_number(given["rate"], "fusion rate", float))
        return cls(sources, rate, float(read_number(given.get("skew", "0.5"), "fusion skew", float)), **words)

    @property
    def broken(self) -> int:  # type: ignore[override]  # counted by its sources
        """See `Source.broken`."""
        return sum(source.broken for _, source in self._sources)

    def counts(self) -> dict[str, int]:
        """Samples that came too late to be fused, times that a silent sensor's values were held, and those without a frame."""
        stats = self.fusion.stats()
        named = {"late": "fused too late", "held": "fused with held values", "dropped": "fused times left out"}
        return {words: stats[name] for name, words in named.items() if stats[name]}

    def read(self, into: Array | None = None) -> Frame | None:
        """See `Source.read`."""
        with self._changed:
            while not self._ready and not self._closed and not self._error:
                if not self._reading and not self._flushed:
                    self._flushed = True
                    self._add(self.fusion.flush())
                elif not self._reading:
                    return None
                elif self.live:
                    self._changed.wait()
                else:
                    self._advance()
            if self._closed:
                return None
            if self._ready:
                self._count += 1
                return replace(self._ready.popleft(), index=self._count - 1)
            raise self._error or UsageError("nothing to read")

    def close(self) -> None:
        """See `Source.close`."""
        self._closed = True
        with ExitStack() as closing:  # what cannot be closed keeps nothing else open
            closing.callback(self._wake)
            for _, source in self._sources:
                closing.callback(source.close)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _teller(self, name: str) -> Tell:
        """What a sensor tells goes where this source's own words go."""
        return lambda text: self.tell(text if name in text else f"{name}: {text}")

    def _advance(self) -> None:
        """Read one sample of the recorded source that is behind the others."""
        name = min(self._reading, key=lambda one: (self._times[one], self.fusion.sources.index(one)))
        frame = dict(self._sources)[name].read()
        if frame is None:
            self._reading.discard(name)
            return
        time = frame.captured_ns if frame.recorded_ns is None else frame.recorded_ns
        self._times[name] = time - (self._zeros.setdefault(name, time) if self.fusion.align == "first" else 0)
        self._add(self.fusion.push(name, frame))

    def _follow(self, name: str, source: Source) -> None:
        """Read a live source until it ends."""
        try:
            while (frame := source.read()) is not None:
                with self._changed:
                    self._add(self.fusion.push(name, frame))
        except EdgewrightError as error:
            self._error = self._error or error
        except Exception as error:
            self._error = self._error or SourceError(f"{name} broke off ({type(error).__name__}: {error})")
        finally:
            with self._changed:
                self._reading.discard(name)
                self._changed.notify_all()

    def _add(self, frames: Sequence[Frame]) -> None:
        self._ready.extend(frames)
        while self.live and len(self._ready) > _ROOM:
            self._ready.popleft()
            self.skipped += 1
        if frames:
            self._changed.notify_all()
