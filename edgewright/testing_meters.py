"""Contract suite for power meters, shipped so that plug-in authors run what we run; needs pytest."""

# ruff: noqa: S101
from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from edgewright.benchmarks.power import METERS, Clock, Meter, PowerTrace, find_meter, open_meter
from edgewright.errors import EdgewrightError, MeterError, UsageError

__all__ = ["MeterCase", "MeterContract", "PlayedClock"]

_PATIENCE_S = 60
_IMPORT = """
import sys
from edgewright.benchmarks.power import METERS
METERS.get(sys.argv[1])
heavy = {"tensorflow", "keras", "torch", "onnx", "openvino", "ai_edge_litert", "onnxruntime", "rich", "typer", "serial"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""


class PlayedClock(Clock):
    """A clock that stands still until a meter waits, and then plays what a device does in that time.

    Args:
        play: puts the device into the state it has so many seconds after the beginning.
        seconds: when the play ends; a meter that waits longer is held until it is stopped.
        lost: spans (begin and end in seconds) in which the meter's thread gets no turn.
        hold: whether to hold a meter after the end; without it the time goes on and nothing is played.
    """

    start_ns = 5_000_000_000_000

    def __init__(
        self,
        play: Callable[[float], object],
        seconds: float,
        *,
        lost: Sequence[tuple[float, float]] = (),
        hold: bool = True,
    ) -> None:
        self._play, self._lost, self._hold = play, tuple(lost), hold
        self._now_ns, self._end_ns = self.start_ns, self.start_ns + round(seconds * 1e9)
        self.finished = threading.Event()
        play(0.0)

    def now_ns(self) -> int:
        """The played moment."""
        return self._now_ns

    def at(self, seconds: float) -> int:
        """The moment so many seconds after the beginning, in nanoseconds."""
        return self.start_ns + round(seconds * 1e9)

    def wait(self, until_ns: int, stop: threading.Event) -> None:
        """Play until then; at the end say so and hold."""
        if stop.is_set() or until_ns <= self._now_ns:
            return
        for begin, end in self._lost:
            if self.at(begin) <= until_ns < self.at(end):
                until_ns = self.at(end)
        reached = min(until_ns, self._end_ns)
        if reached > self._now_ns:
            self._now_ns = reached
            self._play((reached - self.start_ns) / 1e9)
        if reached < until_ns:
            self.finished.set()
            if self._hold:
                stop.wait(_PATIENCE_S)
            else:
                self._now_ns = until_ns

    def run(self, step_s: float) -> None:
        """Play to the end, for a meter that does not wait itself."""
        never = threading.Event()
        while not self.finished.is_set():
            self.wait(self._now_ns + round(step_s * 1e9), never)


@dataclass(frozen=True, slots=True)
class MeterCase:
    """One meter and a recorded device to test it with.

    Args:
        meter: the plug-in's name.
        option: what stands after the colon.
        root: the folder that stands for "/", with the device in it.
        play: puts the device into the state it has so many seconds after the beginning.
        joules: energy from one moment to another, in seconds after the beginning, of the power that `play` plays.
        tolerance_joules: how far the meter may be off over any span.
        seconds: how long to play.
        wrong_options: options that mean nothing to it.
        waits: whether the meter waits by its clock in a thread; False for one that reads a file at the end.
    """

    meter: str
    root: Path
    play: Callable[[float], object]
    joules: Callable[[float, float], float]
    tolerance_joules: float
    option: str = ""
    seconds: float = 5.0
    wrong_options: tuple[str, ...] = ("no-such-thing",)
    waits: bool = True
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.meter


class MeterContract:
    """What every meter must do. Subclass it in a test module and give it a fixture `case` that returns a MeterCase.

    Example:
        class TestMyMeter(MeterContract):
            @pytest.fixture
            def case(self, tmp_path):
                device = write_my_tree(tmp_path)
                return MeterCase("mine", tmp_path, device.play, device.joules, tolerance_joules=0.01)
    """

    @pytest.fixture
    def case(self) -> MeterCase:
        """The meter under test; subclasses override it."""
        raise NotImplementedError("give the contract suite a fixture 'case'")

    @pytest.fixture
    def clock(self, case: MeterCase) -> PlayedClock:
        """The clock that plays the device."""
        return PlayedClock(case.play, case.seconds, hold=case.waits)

    @pytest.fixture
    def meter(self, case: MeterCase, clock: PlayedClock) -> Meter:
        """The meter, open and not started."""
        return _open(case, clock)

    def test_says_what_it_is(self, case: MeterCase, clock: PlayedClock) -> None:
        """The class carries its name, says whether it is external, and says that it is available where the device is."""
        meter = METERS.get(case.meter)
        assert meter.name == case.meter
        assert isinstance(meter.external, bool)
        assert meter.available(case.root) == ""
        if not meter.external:
            assert find_meter(case.root, [case.meter]) == case.meter

    def test_importing_it_imports_little(self, case: MeterCase) -> None:
        """What a board runs needs NumPy only."""
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT, case.meter], capture_output=True, text=True, check=False, timeout=_PATIENCE_S
        )
        assert done.stdout.strip() == "[]", done.stderr[-500:]

    def test_says_why_it_is_not_there(
        self, case: MeterCase, clock: PlayedClock, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        """On a machine without the device: a reason, and an error with the same words and a hint."""
        empty = tmp_path_factory.mktemp("empty")
        if METERS.get(case.meter).external:
            pytest.skip("an external meter is always named")
        reason = METERS.get(case.meter).available(empty)
        assert reason and "\n" not in reason
        with pytest.raises(MeterError) as caught:
            open_meter(case.meter, root=empty)
        assert reason in caught.value.message and caught.value.hint
        with pytest.raises(MeterError, match="no power meter on this machine") as caught:
            find_meter(empty)
        assert f"{case.meter}: {reason}" in caught.value.message

    def test_refuses_unknown_options(self, case: MeterCase, clock: PlayedClock) -> None:
        """An option that means nothing is named in the error."""
        for option in case.wrong_options:
            with pytest.raises((UsageError, MeterError)) as caught:
                open_meter(f"{case.meter}:{option}", root=case.root)
            assert option.strip("?").partition("=")[0] in caught.value.message and caught.value.hint

    def test_measures_the_energy(self, case: MeterCase, clock: PlayedClock, meter: Meter) -> None:
        """The energy of the whole and of parts of it, at moments that are no readings, is the one that was played."""
        trace = _played(case, clock, meter)
        _check_form(case, trace)
        first, last = (int(trace.t_ns[0]), int(trace.t_ns[-1]))
        assert first <= clock.at(0.5) and last >= clock.at(case.seconds - 0.5)
        for begin, end in ((0.5, case.seconds - 0.5), (0.777, 1.9031), (case.seconds / 2, case.seconds - 0.5001)):
            found = trace.energy_joules(clock.at(begin), clock.at(end))
            assert found == pytest.approx(case.joules(begin, end), abs=case.tolerance_joules)

    def test_needs_start_before_stop_and_starts_once(self, case: MeterCase, clock: PlayedClock, meter: Meter) -> None:
        """Calls in the wrong order are errors of the meter, not of Python."""
        with pytest.raises(MeterError, match="not started"):
            meter.stop()
        meter.start()
        with pytest.raises(MeterError, match="started before"):
            meter.start()
        _finish(case, clock)
        meter.stop()

    def test_a_trace_can_be_had_while_it_runs(self, case: MeterCase, clock: PlayedClock, meter: Meter) -> None:
        """`so_far` gives the same readings that `stop` gives."""
        meter.start()
        _finish(case, clock)
        early, late = meter.so_far(), meter.stop()
        n = len(early.t_ns)
        np.testing.assert_array_equal(early.t_ns, late.t_ns[:n])
        np.testing.assert_allclose(early.watts, late.watts[:n])

    def test_stopping_at_once_ends_the_thread(self, case: MeterCase, clock: PlayedClock, meter: Meter) -> None:
        """A stop right after the start gives a trace or a MeterError, and leaves no thread behind."""
        before = set(threading.enumerate())
        meter.start()
        try:
            meter.stop()
        except MeterError as error:
            assert error.hint
        assert set(threading.enumerate()) <= before

    def test_a_device_that_goes_away(self, case: MeterCase) -> None:
        """Half-way the device vanishes: an error that says what and after how many readings; those are still to be had."""
        if not case.waits:
            pytest.skip("it reads a file at the end")

        def play(seconds: float) -> None:
            if seconds < case.seconds / 2:
                case.play(seconds)
            elif case.root.is_dir():
                shutil.rmtree(case.root)

        clock = PlayedClock(play, case.seconds)
        meter = _open(case, clock)
        meter.start()
        while not clock.finished.is_set() and any(thread.name == f"meter {case.meter}" for thread in threading.enumerate()):
            clock.finished.wait(0.01)
        with pytest.raises(MeterError, match="readings") as caught:
            meter.stop()
        assert case.meter in caught.value.message and caught.value.hint
        kept = meter.so_far()
        assert kept.t_ns[0] <= clock.at(0.5) and kept.t_ns[-1] <= clock.at(case.seconds / 2)
        assert kept.t_ns[-1] >= clock.at(case.seconds / 2 - 0.5)


def _open(case: MeterCase, clock: Clock) -> Meter:
    return open_meter(f"{case.meter}:{case.option}" if case.option else case.meter, root=case.root, clock=clock)


def _finish(case: MeterCase, clock: PlayedClock) -> None:
    if not case.waits:
        clock.run(0.01)
    assert clock.finished.wait(_PATIENCE_S), "the meter did not come to the end of the play"


def _played(case: MeterCase, clock: PlayedClock, meter: Meter) -> PowerTrace:
    try:
        meter.start()
        _finish(case, clock)
    finally:
        trace = meter.stop()
    return trace


def _check_form(case: MeterCase, trace: PowerTrace) -> None:
    assert trace.meter == case.meter
    assert trace.scope and "\n" not in trace.scope
    assert trace.origin in ("measured", "estimated") and trace.kind in ("mean", "sample")
    assert trace.rate_hz == pytest.approx((len(trace.t_ns) - 1) / ((trace.t_ns[-1] - trace.t_ns[0]) / 1e9))
    assert trace.missed >= 0 and trace.step_joules >= 0 and trace.step_watts >= 0
    assert all(isinstance(note, str) and note for note in trace.notes)
    with pytest.raises(EdgewrightError):
        trace.energy_joules(int(trace.t_ns[0]) - 1, int(trace.t_ns[-1]))
