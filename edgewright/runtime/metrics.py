"""A stream's account for Prometheus: read when it is scraped, so that frames cost nothing more."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from edgewright.errors import needs
from edgewright.runtime.accounting import DROPS, Lane, Timings
from edgewright.runtime.stream import Stream

__all__ = ["Collector", "cumulative", "exposition"]

_BOUNDS_S = (*(m * 10.0**e for e in range(-4, 1) for m in (1.0, 2.5, 5.0)), 10.0)
"""0.1 ms to 10 s in steps of about 2.2."""


def exposition(running: Stream) -> tuple[Callable[[], bytes], str]:
    """What to call for the text of a scrape, and its content type.

    Raises:
        MissingPackageError: prometheus-client is not installed.
    """
    with needs("monitor"):
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
    registry = CollectorRegistry()
    registry.register(Collector(running))
    ProcessCollector(registry=registry)  # memory and processor time, under the names that every dashboard knows
    return lambda: bytes(generate_latest(registry)), str(CONTENT_TYPE_LATEST)


class Collector:
    """Metric families of one stream, as prometheus-client asks for them.

    Args:
        running: the stream; only its account is read.
    """

    def __init__(self, running: Stream) -> None:
        self._running = running

    def describe(self) -> list[Any]:
        """Nothing: names are not known to the registry before the first scrape."""
        return []

    def collect(self) -> Iterable[Any]:
        """All families with their values now."""
        yield from self._frames()
        yield from self._durations()
        yield from self._surroundings()

    def _frames(self) -> Iterable[Any]:
        """What became of every frame; classes, reasons and waiting add up to captured in each scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        captured = CounterMetricFamily("edgewright_frames_captured", "Frames or windows that sources gave.", labels=["source"])
        frames = CounterMetricFamily(
            "edgewright_frames",
            "Frames by what became of them: done, late (done after the deadline), failed, dropped for a reason.",
            labels=["source", "status", "reason"],
        )
        waiting = GaugeMetricFamily("edgewright_frames_waiting", "Frames that have not ended yet.", labels=["source"])
        duplicates = CounterMetricFamily(
            "edgewright_duplicate_frames",
            "Frames whose sample of 64 by 64 pixels equals that of the one before.",
            labels=["source"],
        )
        for lane in self._running.lanes:
            name = printable(lane.name)
            ended, total = _ended(lane)
            captured.add_metric([name], total)
            waiting.add_metric([name], total - sum(ended.values()))
            duplicates.add_metric([name], lane.duplicates)
            for (status, reason), count in ended.items():
                frames.add_metric([name, status, reason], count)
        return captured, frames, waiting, duplicates

    def _durations(self) -> Iterable[Any]:
        from prometheus_client.core import HistogramMetricFamily

        age = HistogramMetricFamily("edgewright_age_seconds", "From capture to answer.", labels=["source"])
        stage = HistogramMetricFamily("edgewright_stage_seconds", "Time in each stage.", labels=["source", "stage"])
        for lane in self._running.lanes:
            name = printable(lane.name)
            age.add_metric([name], cumulative(lane.age), lane.age.total_ns / 1e9)
            for which, timings in lane.stages.items():
                stage.add_metric([name, which], cumulative(timings), timings.total_ns / 1e9)
        return age, stage

    def _surroundings(self) -> Iterable[Any]:
        """Sinks, temperature, and which model this is."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

        written = CounterMetricFamily("edgewright_sink_results_written", "Results that a sink took.", labels=["sink"])
        lost = CounterMetricFamily("edgewright_sink_results_lost", "Results that a sink lost.", labels=["sink"])
        for outlet in self._running.outlets:
            written.add_metric([printable(outlet.name)], outlet.written)
            lost.add_metric([printable(outlet.name)], outlet.lost)
        heat = GaugeMetricFamily("edgewright_temperature_celsius", "Of the hottest zone that the system tells.")
        if self._running.resources.temperature_c is not None:
            heat.add_metric([], self._running.resources.temperature_c)
        about = InfoMetricFamily("edgewright", "The models that run.")
        for session in (crew.loaded.session for crew in self._running.crews):
            values = {"model": str(session.path), "engine": session.engine, "precision": session.execution.precision}
            about.add_metric([], {name: printable(value) for name, value in values.items()})
        return written, lost, heat, about


def printable(text: str) -> str:
    """A text that UTF-8 can hold: names of files may have bytes that are none."""
    return text.encode("utf-8", "replace").decode()


def cumulative(timings: Timings) -> list[tuple[str, float]]:
    """Prometheus buckets: how many durations do not exceed each bound in seconds, within 1 %; the last bound is +Inf."""
    names = (*(f"{bound:g}" for bound in _BOUNDS_S), "+Inf")
    return [(name, float(count)) for name, count in zip(names, timings.at_most(_BOUNDS_S), strict=True)]


def _ended(lane: Lane) -> tuple[dict[tuple[str, str], int], int]:
    """How many frames ended in each class and for which reason, and how many were captured, at one moment."""
    with lane.lock:
        dropped = {("dropped", why): lane.dropped.get(why, 0) for why in {**DROPS, **lane.dropped}}
        # Captured is read last: it grows outside the lock, and must not be less than the rest.
        return {("done", ""): lane.done, ("late", ""): lane.late, ("failed", ""): lane.failed, **dropped}, lane.captured
