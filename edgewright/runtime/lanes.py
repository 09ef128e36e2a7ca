"""The bounded buffer between capture threads and workers: one lane per source, what to do when a lane is full, and turns."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgewright.errors import EdgewrightError, UsageError
from edgewright.runtime.accounting import Lane
from edgewright.runtime.frames import Array, Frame

__all__ = ["POLICIES", "Buffer", "Item", "Policy", "failing"]

Policy: TypeAlias = Literal["wait", "oldest", "newest"]

POLICIES: dict[str, str] = {
    "wait": "capture waits until there is room: nothing is lost, a live source ages",
    "oldest": "the oldest waiting frame is dropped: results are as fresh as can be",
    "newest": "the new frame is dropped",
}


@dataclass(slots=True)
class Item:
    """One frame, or one window, on its way.

    Args:
        lane: number of its source.
        frame: what was captured; its data is the sample for `Prepare`, and only has its shape where that was done already.
        entered_ns: when it was put into the buffer.
        ready: the model's input, once it is prepared.
        image: what sinks draw on; None if none asked.
        prepare_ns: time that preparing took.
        fresh: the first after a gap: a stateful model starts anew.
        ours: its data is an array of the stream's own, to be used again.
        error: why it cannot be used.
    """

    lane: int
    frame: Frame
    entered_ns: int = 0
    ready: Array | None = None
    image: Array | None = None
    prepare_ns: int = 0
    fresh: bool = False
    ours: bool = False
    error: str = ""


@contextmanager
def failing(item: Item) -> Iterator[None]:
    """What goes wrong in the block, in a library or a plug-in too, fails this item alone: the stream goes on."""
    try:
        yield
    except EdgewrightError as error:
        item.error = error.message
    except Exception as error:
        item.error = f"{type(error).__name__}: {error}"


class Buffer:
    """Frames that wait for a worker.

    Args:
        lanes: the sources' accounts, which drops are counted in.
        policies: for each lane, a key of `POLICIES`.
        capacity: frames that wait per lane at most.

    Raises:
        UsageError: a policy is unknown or the capacity is below 1.
    """

    def __init__(self, lanes: list[Lane], policies: list[str], capacity: int) -> None:
        for policy in policies:
            if policy not in POLICIES:
                raise UsageError(f"there is no policy '{policy}'", hint=f"known: {', '.join(POLICIES)}")
        if capacity < 1:
            raise UsageError(f"the buffer has room for {capacity} frames, 1 is the least")
        self._lanes, self._policies, self._capacity = lanes, policies, capacity
        self._waiting: list[deque[Item]] = [deque() for _ in lanes]
        self._open = [True] * len(lanes)
        self._owed = [False] * len(lanes)
        self._turn, self._sequence = 0, 0
        self._stopped = False
        lock = threading.Lock()
        self._filled, self._freed = threading.Condition(lock), threading.Condition(lock)

    def put(self, item: Item) -> Item | None:
        """Add a frame, by the lane's policy.

        Returns:
            the frame that was dropped for it, itself possibly; None if none was.
        """
        # What is dropped may have been the first after a gap: the next one of its lane is that then.
        queue, policy = self._waiting[item.lane], self._policies[item.lane]
        with self._freed:
            while policy == "wait" and len(queue) >= self._capacity and not self._stopped:
                self._freed.wait()
            if self._stopped:
                self._lanes[item.lane].drop("stop")
                return item
            lost = None
            if len(queue) >= self._capacity:
                self._lanes[item.lane].drop(policy)
                if policy == "newest":
                    self._owed[item.lane] |= item.fresh
                    return item
                lost = queue.popleft()
                self._owed[item.lane] |= lost.fresh and not queue
                if queue:
                    queue[0].fresh |= lost.fresh
            item.fresh |= self._owed[item.lane]
            self._owed[item.lane] = False
            queue.append(item)
            self._filled.notify()
            return lost

    def take(self, *, wait: bool = True) -> tuple[int, Item] | None:
        """The next frame with its number in the order of taking, lanes in turn; None when no more will come.

        Args:
            wait: for a frame; if not, None where none is there now.
        """
        with self._filled:
            while True:
                for step in range(len(self._waiting)):
                    place = (self._turn + step) % len(self._waiting)
                    if self._waiting[place]:
                        self._turn = place + 1
                        self._sequence += 1
                        self._freed.notify_all()
                        return self._sequence - 1, self._waiting[place].popleft()
                if not wait or self._stopped or not any(self._open):
                    return None
                self._filled.wait()

    def finish(self, lane: int) -> None:
        """A source has ended: what waits is still given out."""
        with self._filled:
            self._open[lane] = False
            self._filled.notify_all()

    @property
    def waiting(self) -> bool:
        """Whether a frame is there to be taken."""
        return any(self._waiting)

    @property
    def stopped(self) -> bool:
        """Whether nothing is taken any more."""
        return self._stopped

    def stop(self) -> None:
        """Drop what waits, and take nothing more."""
        with self._filled:
            self._stopped = True
            for lane, queue in zip(self._lanes, self._waiting, strict=True):
                if queue:
                    lane.drop("stop", len(queue))
                    queue.clear()
            self._filled.notify_all()
            self._freed.notify_all()
