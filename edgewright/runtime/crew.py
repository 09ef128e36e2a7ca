"""One model's workers: frames from its sources through inference to results, in the order of capture."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from edgewright.errors import EdgewrightError, EngineError, SourceError, UsageError
from edgewright.preprocess import Preprocess, decode
from edgewright.runtime.answers import Answerer, Meaning
from edgewright.runtime.feed import Feed
from edgewright.runtime.frames import Array, Result, Source, Tell
from edgewright.runtime.lanes import Buffer, Item, failing
from edgewright.runtime.prepare import Prepare
from edgewright.runtime.session import Session
from edgewright.runtime.windows import Windowing

__all__ = ["Crew", "Flow", "Loaded"]

_FEWEST, _MOST, _INPUT_BYTES = 4, 32, 16_000_000
"""Frames of recorded sources that may wait, and the bytes of prepared inputs that may be kept for them."""

_Inferred: TypeAlias = tuple[int, Item, dict[str, Array], int]


@dataclass(frozen=True, slots=True)
class Flow:
    """How frames flow.

    Args:
        policy: what to do when the buffer is full, a key of `POLICIES`; None is "oldest" for live sources, "wait" for others.
        buffer: frames that wait at most, of each source; None is 1 for live sources, 4 for others, and up to 32 (of 16 MB in all)
            where they wait by policy and nothing but the model's inputs has to be kept for them: no images, no deadline.
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
            if value is not None and not 0 < value < float("inf"):
                raise UsageError(f"{name.removesuffix('_ms').removesuffix('_hz')} is {value}, it must be above 0")
        if self.rate_hz is not None and not 1e-6 <= self.rate_hz <= 1e9:
            raise UsageError(f"rate is {self.rate_hz} per second, it must be from 1e-6 to 1e9", hint="leave it out to take all")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, what is known of it, and the sources that it runs on.

    Args:
        session: the model; taken over.
        sources: names, different in the whole stream, and sources; taken over.
        meaning: of the outputs.
        preprocess: of raw samples.
        window: how sensor samples become windows.
    """

    session: Session
    sources: Sequence[tuple[str, Source]]
    meaning: Meaning
    preprocess: Preprocess | None = None
    window: Windowing | None = None


class Crew:
    """The threads of one model: one for each source, and its workers.

    Args:
        loaded: the model and its sources.
        flow: how frames flow.
        keep_images: results carry their images.
        wanted: asked before each result whether it is one; what is not counts as dropped by the stop.
        emit: given each result, in the order of capture, by one thread at a time.
        broken: told what a source or a worker ended with; the stream then goes on without it.
        failed: called when no worker can go on.
        ended: called once, by the last worker that ends.
        tell: told what the user must know.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        flow: Flow,
        keep_images: bool,
        wanted: Callable[[], bool],
        emit: Callable[[Result], None],
        broken: Callable[[EdgewrightError], None],
        failed: Callable[[], None],
        ended: Callable[[], None],
        tell: Tell,
    ) -> None:
        self.loaded, self._flow = loaded, flow
        self._wanted, self._give, self._broken, self._failed, self._ended = wanted, emit, broken, failed, ended
        # A reconstruction is compared with what was not yet rounded or clipped for the model's input.
        keep = keep_images or loaded.meaning.task == "anomaly"
        policies = [flow.policy or ("oldest" if source.live else "wait") for _, source in loaded.sources]
        outputs = [spec.name for spec in loaded.session.outputs]
        self.feeds = [
            Feed(
                number,
                name,
                source,
                prepare=Prepare(loaded.session.inputs[0], loaded.preprocess),
                answerer=Answerer(loaded.meaning, outputs, loaded.preprocess),
                window=loaded.window,
                early=policy == "wait",
                keep=keep,
                rate_hz=flow.rate_hz,
                downscale=flow.downscale,
                tell=tell,
            )
            for number, ((name, source), policy) in enumerate(zip(loaded.sources, policies, strict=True))
        ]
        live = any(source.live for _, source in loaded.sources)
        self._buffer = Buffer([feed.lane for feed in self.feeds], policies, flow.buffer or (1 if live else self._room(keep)))
        self._sessions = _clones(loaded.session, flow.workers)
        self._order, self._pending, self._next = threading.Lock(), {}, 0  # type: ignore[var-annotated]
        self._abandoned = False
        self._active = len(self._sessions)
        # What comes behind inference is done beside the next one: by the worker itself if its engine has that underway, else by
        # a thread. Live results are handed on at once.
        self._ahead = 1 if live else loaded.session.ahead
        apart = not live and self._ahead == 1
        self._inferences: queue.Queue[_Inferred | None] | None = queue.Queue(len(self._sessions)) if apart else None
        self.threads = [
            *(self._thread(f"capture {feed.lane.name}", self._capture, feed) for feed in self.feeds),
            *(self._thread(f"infer {n}", self._work, one) for n, one in enumerate(self._sessions)),
            *([self._thread("answer", self._answer)] if apart else []),
        ]

    def stop(self) -> None:
        """Take nothing more: every thread comes to its end."""
        self._buffer.stop()

    def abandon(self) -> None:
        """Give up what is still being computed; what has not ended counts as dropped by the stop."""
        with self._order:
            self._abandoned = True
            for feed in self.feeds:
                if feed.lane.waiting > 0:
                    feed.lane.drop("stop", feed.lane.waiting)
            if not self._active:
                self.free()

    def to_json(self) -> dict[str, Any]:
        """The model, as plain values."""
        session = self.loaded.session
        return {
            "model": str(session.path),
            "engine": session.engine,
            "execution": session.execution.to_json(),
            "task": self.loaded.meaning.task,
        }

    def free(self) -> None:
        """Close the sessions; no worker may be running."""
        for session in self._sessions:
            session.close()

    def _room(self, keep: bool) -> int:
        """How many frames of recorded sources may wait: more where that evens out slow ones, and only inputs are kept."""
        if keep or self._flow.deadline_ms is not None or not all(feed.early for feed in self.feeds):
            return _FEWEST
        bytes_each = max(1, self.feeds[0].prepare.slot().nbytes)
        return max(_FEWEST, min(_MOST, _INPUT_BYTES // bytes_each))

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

    def _work(self, session: Session) -> None:
        """Infer until nothing more comes."""
        underway: deque[tuple[int, Item, bool]] = deque()
        try:
            while True:
                taken = self._buffer.take(wait=not underway)
                more = self._ahead > 1 and taken is not None and self._buffer.waiting
                if taken is not None:
                    underway.append((*taken, self._begun(session, taken[1], more)))
                elif not underway:
                    break
                if not more or len(underway) == self._ahead:
                    sequence, item, begun = underway.popleft()
                    done = (sequence, item, *(self._finished(session, item) if begun else ({}, 0)))
                    if self._inferences is None:
                        self._deliver(*done)
                    else:
                        self._inferences.put(done)
        except Exception as error:
            self._broken(EngineError(f"a worker ended ({type(error).__name__}: {error})"))
            self._failed()
        finally:
            with self._order:
                self._active -= 1
                last = not self._active
                if last and self._abandoned:
                    self.free()
            if last and self._inferences is not None:
                self._inferences.put(None)
            elif last:
                self._ended()

    def _answer(self) -> None:
        """Answers to what the workers have inferred, until the last of them has ended."""
        inferences = self._inferences
        while inferences is not None and (done := inferences.get()) is not None:
            try:
                self._deliver(*done)
            except Exception as error:
                self._broken(EngineError(f"answers ended ({type(error).__name__}: {error})"))
                self._failed()
        self._ended()

    def _begun(self, session: Session, item: Item, more: bool) -> bool:
        """Begin an inference; False if there is nothing to infer, and the item says why."""
        feed = self.feeds[item.lane]
        feed.lane.stages["wait"].add(time.monotonic_ns() - item.entered_ns)
        begun = False
        with failing(item):
            if item.fresh and session.stateful:
                session.reset()
            if item.ready is None and not item.error:
                feed.make_ready(item)
            if item.ready is None:
                return False
            if session.stateful and item.ready.dtype.kind == "f" and not np.isfinite(item.ready).all():
                item.error = "the sample holds NaN or infinite values, which the model's state would keep"
                return False
            session.start({session.inputs[0].name: item.ready}, more=more)
            begun = True
        return begun

    def _finished(self, session: Session, item: Item) -> tuple[dict[str, Array], int]:
        """Real outputs of the inference that was begun first and its nanoseconds; none if it failed, and the item says why."""
        outputs: dict[str, Array] = {}
        took = 0
        with failing(item):
            found = session.finish()
            real = {spec.name: np.asarray(decode(spec, found[spec.name]))[0] for spec in session.outputs}
            # Of a detector's candidates those with NaN are left out; an output of nothing else fails.
            sound = np.any if self.loaded.meaning.task == "detection" else np.all
            broken = [name for name, value in real.items() if not sound(np.isfinite(value))]
            outputs, took = real, session.computed_ns
            self.feeds[item.lane].lane.stages["infer"].add(took)
            if broken:
                item.error = f"output '{broken[0]}' of the model holds NaN or infinite values"
                if session.stateful:
                    session.reset()
        return outputs, took

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
        feed, start = self.feeds[item.lane], time.monotonic_ns()
        if not self._wanted():
            feed.lane.drop("stop")
            feed.reuse(item)
            return
        answer: dict[str, Any] = {}
        if item.fresh:
            feed.answerer.reset()
        if not item.error:
            with failing(item):
                answer = feed.answerer(
                    outputs, self._fed(item), item.frame.data.shape[:2] if feed.source.kind == "image" else None
                )
        now = time.monotonic_ns()
        age = now - item.frame.captured_ns
        late = self._flow.deadline_ms is not None and age > self._flow.deadline_ms * 1e6
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
        self._give(result)

    def _fed(self, item: Item) -> Array:
        """What the model was given, real, where the task looks at it; else only its shape counts."""
        if self.loaded.meaning.task == "anomaly":
            return self.feeds[item.lane].prepare.real(item.frame.data)
        return item.frame.data if item.ready is None else np.asarray(item.ready[0])


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
