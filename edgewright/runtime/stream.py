"""Sources through a model to sinks, in real time: capture, buffer, inference, answers, and an account of every frame."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np

from edgewright.errors import EdgewrightError, EngineError, SourceError, UsageError
from edgewright.preprocess import Preprocess, decode
from edgewright.runtime.accounting import Lane, Resources
from edgewright.runtime.answers import Answerer, Meaning
from edgewright.runtime.feed import Feed
from edgewright.runtime.frames import Array, Result, Sink, Source
from edgewright.runtime.lanes import Buffer, Item
from edgewright.runtime.outlets import Outlet
from edgewright.runtime.prepare import Prepare
from edgewright.runtime.session import Session
from edgewright.runtime.windows import Windowing

__all__ = ["Flow", "Stream"]

_STOP_S = 1.0
_RESULTS = 8


@dataclass(frozen=True, slots=True)
class Flow:
    """How frames flow.

    Args:
        policy: what to do when the buffer is full, a key of `POLICIES`; None is "oldest" for live sources, "wait" for others.
        buffer: frames that wait at most; None is 1 for live sources, 4 for others.
        workers: threads that infer, each with a session of its own; results keep their order. Models with state need 1.
        deadline_ms: a result that is older counts as late; None: none is.
        rate_hz: frames per second that are taken at most; None takes all.
        downscale: longest side of an image in pixels: larger ones are made smaller first, also for sinks; None: as they come.

    Raises:
        UsageError: a value is none that it can have.
    """

    policy: str | None = None
    buffer: int | None = None
    workers: int = 1
    deadline_ms: float | None = None
    rate_hz: float | None = None
    downscale: int | None = None

    def __post_init__(self) -> None:
        for name in ("buffer", "workers", "deadline_ms", "rate_hz", "downscale"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name.removesuffix('_ms').removesuffix('_hz')} is {value}, it must be above 0")


class Stream:
    """A running stream; iterate over its results, or read `summary` at any time. Made by `edgewright.runtime.stream`.

    Iterating ends when all sources have ended, and raises a source's error after the last result. The context manager, `close`
    and leaving the loop stop everything within about a second; sinks, all at once, get two more to write what waits, and 2.5 to
    close. What the model is still computing then is given up. A result's age ends when it is handed on: how long the caller
    lets it wait (8 results, one from live sources) is not part of it.
    """

    def __init__(
        self,
        session: Session,
        sources: Sequence[tuple[str, Source]],
        sinks: Sequence[tuple[str, Sink]],
        *,
        meaning: Meaning,
        preprocess: Preprocess | None,
        window: Windowing | None,
        flow: Flow,
        keep_images: bool,
    ) -> None:
        self.session, self.flow, self.meaning = session, flow, meaning
        self.events: list[str] = []
        self.resources = Resources()
        self._started = time.monotonic_ns()
        self._stopped_ns: int | None = None
        self._ended = self._abandoned = False
        self._errors: list[EdgewrightError] = []
        self._stopping = threading.Event()
        self._closed = threading.Lock()
        images = keep_images or any(sink.wants_images for _, sink in sinks)
        policies = [flow.policy or ("oldest" if source.live else "wait") for _, source in sources]
        outputs = [spec.name for spec in session.outputs]
        self._feeds = [
            Feed(
                number,
                name,
                source,
                prepare=Prepare(session.inputs[0], preprocess),
                answerer=Answerer(meaning, outputs, preprocess),
                window=window,
                early=policy == "wait",
                keep_images=images,
                rate_hz=flow.rate_hz,
                downscale=flow.downscale,
                tell=self._tell,
            )
            for number, ((name, source), policy) in enumerate(zip(sources, policies, strict=True))
        ]
        for name, source in sources:
            source.tell = self._teller(name)
        self._sessions = _clones(session, flow.workers)
        live = any(feed.source.live for feed in self._feeds)
        self._buffer = Buffer([feed.lane for feed in self._feeds], policies, flow.buffer or (1 if live else 4))
        self.outlets = [Outlet(name, sink, patient=not live, tell=self._tell) for name, sink in sinks]
        self._results: queue.Queue[Result | None] = queue.Queue(1 if live else _RESULTS)
        self._order, self._pending, self._next = threading.Lock(), {}, 0  # type: ignore[var-annotated]
        self._threads = [
            *(self._thread(f"capture {feed.lane.name}", self._capture, feed) for feed in self._feeds),
            *(self._thread(f"infer {n}", self._work, one) for n, one in enumerate(self._sessions)),
        ]
        self._active = len(self._sessions)
        try:
            for thread in (*self._threads, self._thread("watch", self._watch)):
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
    def seconds(self) -> float:
        """How long it runs, or ran until it was stopped."""
        return ((self._stopped_ns or time.monotonic_ns()) - self._started) / 1e9

    def stop_after(self, seconds: float) -> threading.Timer:
        """End the iteration after a time, even if nothing comes; cancel the timer that is returned if it ends before."""
        timer = threading.Timer(seconds, self._stop)
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
            self._stop()
            end = time.monotonic() + _STOP_S
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join(max(0.0, end - time.monotonic()))
            with self._order:
                self._abandoned = True
                for lane in self.lanes:
                    if lane.waiting > 0:
                        lane.drop("stop", lane.waiting)
                if not self._active:
                    self._free()
            self._end()
            closing = [threading.Thread(target=outlet.close, daemon=True) for outlet in self.outlets]
            for thread in closing:
                thread.start()
            for thread in closing:
                thread.join()
            self.resources.sample()

    def summary(self) -> dict[str, Any]:
        """The account so far, as plain values: model, sources, sinks, resources, events."""
        seconds = self.seconds
        finished = sum(lane.done + lane.late for lane in self.lanes)
        return {
            "schema": 1,
            "model": str(self.session.path),
            "engine": self.session.engine,
            "execution": self.session.execution.to_json(),
            "task": self.meaning.task,
            "seconds": round(seconds, 3),
            "results_per_s": round(finished / seconds, 2) if seconds > 0 else 0.0,
            "sources": {feed.lane.name: feed.to_json() for feed in self._feeds},
            "sinks": {outlet.name: outlet.to_json() for outlet in self.outlets},
            "resources": self.resources.to_json(),
            "events": list(self.events),
        }

    def _stop(self) -> None:
        """Let every thread come to its end; whoever iterates gets what is there."""
        self._stopped_ns = self._stopped_ns or time.monotonic_ns()
        self._stopping.set()
        self._buffer.stop()
        for outlet in self.outlets:
            outlet.hurry()
        for feed in self._feeds:
            try:
                feed.source.close()
            except Exception as error:  # the others, and the sinks, are to be closed all the same
                self._tell(f"{feed.lane.name} could not be closed ({type(error).__name__}: {error})")

    def _free(self) -> None:
        for session in self._sessions:
            session.close()

    # Threads.

    def _thread(self, name: str, target: Any, *args: Any) -> threading.Thread:
        return threading.Thread(target=target, args=args, name=name, daemon=True)

    def _capture(self, feed: Feed) -> None:
        """Read until the end; what is wrong with the source is kept for the caller."""
        try:
            feed.run(self._buffer)
        except EdgewrightError as error:
            self._broken(error)
        except Exception as error:
            self._broken(SourceError(f"{feed.lane.name} broke off ({type(error).__name__}: {error})"))

    def _broken(self, error: EdgewrightError) -> None:
        self._errors.append(error)
        self._tell(str(error))

    def _work(self, session: Session) -> None:
        """Infer until nothing more comes."""
        try:
            while (taken := self._buffer.take()) is not None:
                sequence, item = taken
                self._deliver(sequence, item, *self._inferred(session, item))
        except Exception as error:
            self._broken(EngineError(f"a worker ended ({type(error).__name__}: {error})"))
            self._stop()
        finally:
            with self._order:
                self._active -= 1
                last = not self._active
                if last and self._abandoned:
                    self._free()
            if last:
                self._results_put(None)

    def _inferred(self, session: Session, item: Item) -> tuple[dict[str, Array], int]:
        """Real outputs and the time that the engine took; none if it failed, and the item says why."""
        feed = self._feeds[item.lane]
        began = time.monotonic_ns()
        feed.lane.stages["wait"].add(began - item.entered_ns)
        try:
            if item.fresh and session.stateful:
                session.reset()
            if item.ready is None and not item.error:
                feed.make_ready(item)
            if item.ready is None:
                return {}, 0
            if session.stateful and item.ready.dtype.kind == "f" and not np.isfinite(item.ready).all():
                item.error = "the sample holds NaN or infinite values, which the model's state would keep"
                return {}, 0
            start = time.monotonic_ns()
            found = session.run({session.inputs[0].name: item.ready})
            took = time.monotonic_ns() - start
            real = {spec.name: np.asarray(decode(spec, found[spec.name]))[0] for spec in session.outputs}
            broken = [name for name, value in real.items() if not np.isfinite(value).all()]
        except EdgewrightError as error:
            item.error = error.message
            return {}, 0
        except Exception as error:
            item.error = f"{type(error).__name__}: {error}"
            return {}, 0
        feed.lane.stages["infer"].add(took)
        if broken:
            item.error = f"output '{broken[0]}' of the model holds NaN or infinite values"
            if session.stateful:
                session.reset()
        return real, took

    def _deliver(self, sequence: int, item: Item, outputs: dict[str, Array], infer_ns: int) -> None:
        """Hand results on in the order of capture, whichever worker is first."""
        with self._order:
            if self._abandoned:
                return
            self._pending[sequence] = item, outputs, infer_ns
            while self._next in self._pending:
                self._emit(*self._pending.pop(self._next))
                self._next += 1

    def _emit(self, item: Item, outputs: dict[str, Array], infer_ns: int) -> None:
        feed, start = self._feeds[item.lane], time.monotonic_ns()
        answer: dict[str, Any] = {}
        if item.fresh:
            feed.answerer.reset()
        if not item.error:
            try:
                answer = feed.answerer(
                    outputs, self._fed(item), item.frame.data.shape[:2] if feed.source.kind == "image" else None
                )
            except EdgewrightError as error:
                item.error = error.message
            except Exception as error:
                item.error = f"{type(error).__name__}: {error}"
        now = time.monotonic_ns()
        age = now - item.frame.captured_ns
        late = self.flow.deadline_ms is not None and age > self.flow.deadline_ms * 1e6
        status: Any = "failed" if item.error else "late" if late else "done"
        feed.lane.stages["answer"].add(now - start)
        if not item.error:
            feed.lane.age.add(age)
        spent = {"prepare": item.prepare_ns, "infer": infer_ns, "answer": now - start}
        result = Result(
            item.frame.index,
            feed.lane.name,
            status,
            item.frame.captured_ns,
            now,
            item.frame.recorded_ns,
            outputs,
            answer,
            item.error,
            item.image,
            {name: value / 1e6 for name, value in spent.items()},
        )
        feed.lane.end(status, item.error)
        feed.reuse(item)
        for outlet in self.outlets:
            outlet.put(result)
        self._results_put(result)

    def _fed(self, item: Item) -> Array:
        """What the model was given, real, where the task looks at it; else only its shape counts."""
        if item.ready is None:
            return item.frame.data
        real = decode(self.session.inputs[0], item.ready) if self.meaning.task == "anomaly" else item.ready
        return np.asarray(real[0])

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


def _clones(session: Session, count: int) -> list[Session]:
    """So many sessions, the given one among them; if one cannot be had, those made here are closed."""
    sessions = [session]
    try:
        while len(sessions) < count:
            sessions.append(session.clone())
    except BaseException:
        for one in sessions[1:]:
            one.close()
        raise
    return sessions
