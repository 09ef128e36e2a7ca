"""Sources through models to sinks, in real time: capture, buffer, inference, answers, and an account of every frame."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any

from edgewright.errors import EdgewrightError
from edgewright.runtime.accounting import Lane, Resources
from edgewright.runtime.answers import Meaning
from edgewright.runtime.crew import Crew, Flow, Loaded
from edgewright.runtime.feed import Feed
from edgewright.runtime.frames import Result, Sink, Source
from edgewright.runtime.outlets import Outlet
from edgewright.runtime.session import Session

__all__ = ["Stream"]

_STOP_S = 1.0
_RESULTS = 8


class Stream:
    """A running stream; iterate over its results, or read `summary` at any time. Made by `edgewright.runtime.stream`.

    Iterating ends when all sources have ended, and raises a source's error after the last result. The context manager, `close`
    and leaving the loop stop everything within about a second; sinks, all at once, get two more to write what waits, and 2.5 to
    close. What a model is still computing then is given up. A result's age ends when it is handed on: how long the caller
    lets it wait (8 results, one from live sources) is not part of it.
    """

    def __init__(
        self,
        models: Sequence[Loaded],
        sinks: Sequence[tuple[str, Sink]],
        *,
        flow: Flow,
        keep_images: bool,
        count: int | None = None,
    ) -> None:
        self.flow = flow
        self.events: list[str] = []
        self.resources = Resources()
        self._started = time.monotonic_ns()
        self._stopped_ns: int | None = None
        self._ended = False
        self._errors: list[EdgewrightError] = []
        self._stopping = threading.Event()
        self._closed = threading.Lock()
        self._left = count
        for loaded in models:
            for name, source in loaded.sources:
                source.tell = self._teller(name)
        images = keep_images or any(sink.wants_images for _, sink in sinks)
        self.crews: list[Crew] = []
        try:
            for loaded in models:
                self.crews.append(
                    Crew(
                        loaded,
                        flow=flow,
                        keep_images=images,
                        wanted=self._wanted,
                        emit=self._emit,
                        broken=self._broken,
                        failed=self._stop,
                        ended=self._crew_ended,
                        tell=self._tell,
                    )
                )
        except BaseException:
            for crew in self.crews:
                crew.free()
            raise
        self._working = len(self.crews)
        live = any(feed.source.live for feed in self._feeds)
        for _, sink in sinks:
            sink.live = live
        self.outlets = [Outlet(name, sink, patient=not live, tell=self._tell) for name, sink in sinks]
        self._results: queue.Queue[Result | None] = queue.Queue(1 if live else _RESULTS)
        # Models give results at the same time: sinks count them, and are handed them, one after the other.
        self._emitting = threading.Lock()
        watch = threading.Thread(target=self._watch, name="watch", daemon=True)
        try:
            for thread in (*self._threads, watch):
                thread.start()
        except BaseException:
            self.close()
            raise

    # What callers use.

    def __iter__(self) -> Iterator[Result]:
        try:
            while (result := self._results.get()) is not None:
                yield result
        finally:
            self.close()
            self._end()  # for whoever else iterates, now or later
        if self._errors:
            raise self._errors[0]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def session(self) -> Session:
        """Of the first model."""
        return self.crews[0].loaded.session

    @property
    def meaning(self) -> Meaning:
        """Of the first model."""
        return self.crews[0].loaded.meaning

    @property
    def seconds(self) -> float:
        """How long it runs, or ran until it was stopped."""
        return ((self._stopped_ns or time.monotonic_ns()) - self._started) / 1e9

    def stop_after(self, seconds: float) -> threading.Timer:
        """End the iteration after a time, even if nothing comes; cancel the timer that is returned if it ends before."""
        timer = threading.Timer(seconds, self._stop_all)
        timer.daemon = True
        timer.start()
        return timer

    @property
    def lanes(self) -> list[Lane]:
        """The sources' accounts."""
        return [feed.lane for feed in self._feeds]

    def close(self) -> None:
        """Stop, write what waits, free everything; twice is allowed."""
        with self._closed:
            if self._ended:
                return
            self._ended = True
            self._stop_all()
            for crew in self.crews:
                crew.abandon()
            self._end()
            closing = [threading.Thread(target=outlet.close, daemon=True) for outlet in self.outlets]
            for thread in closing:
                thread.start()
            for thread in closing:
                thread.join()
            self.resources.sample()

    def summary(self) -> dict[str, Any]:
        """The account so far, as plain values: models, sources, sinks, resources, events.

        `model`, `engine`, `execution` and `task` are of the first model. `models` has all of them if there are several, and
        each source then says which is its own.
        """
        seconds = self.seconds
        finished = sum(lane.done + lane.late for lane in self.lanes)
        models = [crew.to_json() for crew in self.crews]
        several = len(models) > 1
        sources = {
            feed.lane.name: {**({"model": model["model"]} if several else {}), **feed.to_json()}
            for crew, model in zip(self.crews, models, strict=True)
            for feed in crew.feeds
        }
        return {
            "schema": 1,
            **models[0],
            **({"models": models} if several else {}),
            "seconds": round(seconds, 3),
            "results_per_s": round(finished / seconds, 2) if seconds > 0 else 0.0,
            "sources": sources,
            "sinks": {outlet.name: outlet.to_json() for outlet in self.outlets},
            "resources": self.resources.to_json(),
            "events": list(self.events),
        }

    def _stop(self) -> None:
        """Let every thread come to its end; whoever iterates gets what is there."""
        self._stopped_ns = self._stopped_ns or time.monotonic_ns()
        self._stopping.set()
        for crew in self.crews:
            crew.stop()
        for outlet in self.outlets:
            outlet.hurry()
        closing = [threading.Thread(target=self._close_source, args=(feed,), name="close", daemon=True) for feed in self._feeds]
        for thread in closing:  # all at once: each may wait for a library that holds it
            thread.start()
        end = time.monotonic() + _STOP_S
        for thread in closing:
            thread.join(max(0.0, end - time.monotonic()))

    def _stop_all(self) -> None:
        """Stop, and let an iteration end whatever a model or a source still does a second later."""
        self._stop()
        end = (self._stopped_ns or 0) / 1e9 + _STOP_S
        for thread in self._threads:
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(max(0.0, end - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            self._end()

    def _close_source(self, feed: Feed) -> None:
        try:
            feed.source.close()
        except Exception as error:  # the others, and the sinks, are to be closed all the same
            self._tell(f"{feed.lane.name} could not be closed ({type(error).__name__}: {error})")

    # What the crews' threads call.

    def _wanted(self) -> bool:
        """Whether one more result is; each is counted by asking."""
        if self._left is None:
            return True
        with self._emitting:
            self._left -= 1
            return self._left >= 0

    def _emit(self, result: Result) -> None:
        with self._emitting:
            for outlet in self.outlets:
                outlet.put(result)
        self._results_put(result)
        if self._left is not None and self._left <= 0:
            for crew in self.crews:  # nothing more is taken; whoever iterates still gets all that is there
                crew.stop()

    def _crew_ended(self) -> None:
        with self._emitting:
            self._working -= 1
            last = not self._working
        if last:
            self._results_put(None)

    def _broken(self, error: EdgewrightError) -> None:
        self._errors.append(error)
        self._tell(str(error))

    def _watch(self) -> None:
        """Once a second: memory, temperature, and sources that send nothing."""
        silent: set[str] = set()
        while not self._stopping.wait(1.0):
            self.resources.sample()
            for feed in self._feeds:
                limit = max(2.0, 10 * (feed.source.period_s or 0.0))
                since = (time.monotonic_ns() - (feed.last_ns or self._started)) / 1e9
                if feed.source.live and feed.reading and since > limit and feed.lane.name not in silent:
                    silent.add(feed.lane.name)
                    self._tell(f"{feed.lane.name} has sent nothing for {since:.1f} s")
                elif since <= limit:
                    silent.discard(feed.lane.name)

    # Details.

    @property
    def _feeds(self) -> list[Feed]:
        return [feed for crew in self.crews for feed in crew.feeds]

    @property
    def _threads(self) -> list[threading.Thread]:
        return [thread for crew in self.crews for thread in crew.threads]

    def _results_put(self, result: Result | None) -> None:
        """Hand a result, or the end, to whoever iterates; nobody waits for them once the stream is stopping."""
        while True:
            try:
                self._results.put(result, timeout=0.1)
                return
            except queue.Full:
                if self._stopping.is_set():
                    break
        if result is None:
            self._end()

    def _end(self) -> None:
        """Let an iteration end behind what is there, at the cost of its oldest result if there is no room."""
        while True:
            try:
                self._results.put_nowait(None)
                return
            except queue.Full:
                with contextlib.suppress(queue.Empty):
                    self._results.get_nowait()

    def _teller(self, name: str) -> Any:
        return lambda text: self._tell(text if name in text else f"{name}: {text}")

    def _tell(self, text: str) -> None:
        """Keep what the user must know: the first 200, each with its time."""
        if len(self.events) < 200:
            self.events.append(f"{(time.monotonic_ns() - self._started) / 1e9:.1f} s: {text}")
        Source.tell(text)
