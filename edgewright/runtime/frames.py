"""What flows through a stream: frames, which sources give, and results, which sinks take; both interfaces."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np

from edgewright.runtime.address import Address

__all__ = ["Array", "Frame", "Result", "Sink", "Source", "Status"]

Array: TypeAlias = "np.ndarray[Any, Any]"
Status: TypeAlias = Literal["done", "late", "failed"]
Tell: TypeAlias = Callable[[str], None]

_log = logging.getLogger("edgewright")


@dataclass(frozen=True, slots=True)
class Frame:
    """One sample as a source captured it.

    Args:
        data: an image, uint8 (height, width, 3), BGR; or one row of sensor values, float32 (channels,).
        index: place among the frames that the source gave, from 0; frames that were lost before they came here leave no gap.
        captured_ns: `time.monotonic_ns()` when it was here whole.
        recorded_ns: the sample's own time, from any zero: a column of a file, a video's position, a sensor's clock; None if
            it has none.
    """

    data: Array
    index: int
    captured_ns: int
    recorded_ns: int | None = None


class Source(ABC):
    """Gives frames one after the other. One thread reads; `close` may be called from any other.

    A plug-in subclasses this, registers with `SOURCES` and writes `of`, `read` and `close`.
    """

    kind: ClassVar[Literal["image", "sensor"]]
    """What its frames are."""
    live: bool
    """Whether frames come when they come (a camera), so that waiting for the consumer would lose or age them."""
    period_s: float | None = None
    """Seconds from one frame to the next, if the source tells."""
    size: int | None = None
    """How many frames there will be, if that is known."""
    skipped: int = 0
    """Frames that it let go itself, as only the newest was of use or nobody read."""
    broken: int = 0
    """Frames, lines or messages that came damaged and were left out."""
    decode_threads: int | None = None
    """Threads that decode its frames, if it decodes."""
    adapts: bool = False
    """Whether `decode_on` may change that number."""
    tell: Tell = staticmethod(_log.warning)
    """Called with a sentence on what the user must know and the stream survives: a reconnection, a broken line."""

    @classmethod
    @abstractmethod
    def of(cls, address: Address) -> Source:
        """Open what an address names.

        Raises:
            SourceError: there is no such thing, or it cannot be opened.
            UsageError: the address has settings that this source has not.
            MissingPackageError: a package is needed and not installed.
        """

    @abstractmethod
    def read(self, into: Array | None = None) -> Frame | None:
        """The next frame, waited for; None at the end, and at most a second after `close` was called.

        Args:
            into: an array that is free to be overwritten; a source that can decodes into it if shape and dtype are right, and
                the frame's data is then this array.

        Raises:
            SourceError: it broke off for good; the message says how many frames came before.
        """

    @abstractmethod
    def close(self) -> None:
        """End a waiting `read` and free everything; twice is allowed."""

    def decode_on(self, threads: int) -> None:  # noqa: B027
        """Go on with another number of decoding threads, where it `adapts`; called by the thread that reads.

        Raises:
            SourceError: that cannot be done.
        """

    def counts(self) -> dict[str, int]:
        """What else became of samples before they were frames, by name; for the account."""
        return {}

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one frame or window.

    Args:
        index: of the frame, or of the window's last sample.
        source: name of the source.
        status: "late" is done after its deadline; "failed" has an error and no answer.
        captured_ns: of the frame, see `Frame`.
        finished_ns: `time.monotonic_ns()` when the answer was there.
        recorded_ns: of the frame, see `Frame`.
        outputs: real numbers by output name, without batch axis.
        answer: what the outputs mean, as plain JSON values; see `edgewright.runtime.answers`.
        error: one sentence if it failed.
        image: the frame's image, if a sink asked for it (`Sink.wants_images`); to be read only until `write` returns.
        stages_ms: time in each stage by name.
    """

    index: int
    source: str
    status: Status
    captured_ns: int
    finished_ns: int
    recorded_ns: int | None = None
    outputs: Mapping[str, Array] = field(default_factory=dict)
    answer: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    image: Array | None = None
    stages_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def age_ms(self) -> float:
        """From capture to answer."""
        return (self.finished_ns - self.captured_ns) / 1e6

    def to_json(self) -> dict[str, Any]:
        """Plain form for JSON: one flat line per result, without images and raw outputs."""
        return {
            "source": self.source,
            "index": self.index,
            "status": self.status,
            **({"time_s": self.recorded_ns / 1e9} if self.recorded_ns is not None else {}),
            "age_ms": round(self.age_ms, 3),
            **self.answer,
            **({"error": self.error} if self.error else {}),
        }


class Sink(ABC):
    """Takes results, in order, in a thread of its own: `write` may take its time, what waits behind it is bounded.

    A plug-in subclasses this, registers with `SINKS` and writes `of`, `write` and `close`.
    """

    wants_images: ClassVar[bool] = False
    """Whether results are to carry their images."""
    tell: Tell = staticmethod(_log.warning)
    """As for sources: a reconnection, a full queue of the library."""
    live: bool = False
    """Whether a source of the stream is live; set before the first result."""

    @classmethod
    @abstractmethod
    def of(cls, address: Address) -> Sink:
        """Open what an address names; nothing that is there is lost before the first result is written.

        Raises:
            SinkError: it cannot be opened.
            UsageError: the address has settings that this sink has not.
            MissingPackageError: a package is needed and not installed.
        """

    @abstractmethod
    def write(self, result: Result) -> None:
        """Write one result.

        Raises:
            SinkError: it could not be written; the stream counts it as lost and goes on with the next one.
        """

    @abstractmethod
    def close(self) -> int:
        """Write what waits, within two seconds, and free everything; twice is allowed.

        Returns:
            how many results that `write` took are lost after all.
        """
