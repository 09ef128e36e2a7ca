"""The flow from sources through a model to sinks: order, policies, accounts, failures, stopping."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_engines import _edit_tflite, _make_counter

from edgewright import testing
from edgewright.artifact import TensorSpec
from edgewright.errors import EdgewrightError, EngineError, SinkError, SourceError, UsageError
from edgewright.preprocess import Preprocess, encode
from edgewright.runtime import Flow, Frame, Sink, Source, Windowing, stream
from edgewright.runtime.accounting import Lane, Resources, Timings
from edgewright.runtime.engine_choice import engine_of
from edgewright.runtime.lanes import Buffer, Item
from edgewright.runtime.opening import duration_s, stream_of_texts
from edgewright.runtime.prepare import Prepare


class Rows(Source):
    """Rows of (4,) floats, at once or paced; fails or waits for ever at the end if told to."""

    kind = "sensor"

    def __init__(self, rows, *, live=False, rate=None, error=None, endless=False):
        self.rows, self.live, self.rate, self.error, self.endless = list(rows), live, rate, error, endless
        self.place, self.start, self.closed = 0, None, threading.Event()

    @classmethod
    def of(cls, address):
        raise NotImplementedError

    def read(self, into=None):
        if self.place == len(self.rows):
            if self.error:
                raise self.error
            if self.endless:
                self.closed.wait()
            return None
        if self.rate:
            self.start = self.start or time.monotonic()
            self.closed.wait(max(0.0, self.start + self.place / self.rate - time.monotonic()))
        if self.closed.is_set():
            return None
        self.place += 1
        return Frame(self.rows[self.place - 1], self.place - 1, time.monotonic_ns(), (self.place - 1) * 10_000_000)

    def close(self):
        self.closed.set()


class Kept(Sink):
    """Keeps what it is given; slow, or failing for some, if told to."""

    def __init__(self, seconds=0.0, fails=()):
        self.seconds, self.fails, self.results, self.closed = seconds, set(fails), [], 0

    @classmethod
    def of(cls, address):
        raise NotImplementedError

    def write(self, result):
        time.sleep(self.seconds)
        if result.index in self.fails:
            raise SinkError("no room for it")
        self.results.append(result)

    def close(self):
        self.closed += 1
        return 0


def rows(count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32)


def adds_up(account):
    for lane in account["sources"].values():
        assert lane["waiting"] == 0, lane
        assert lane["captured"] == lane["done"] + lane["late"] + lane["failed"] + sum(lane["dropped"].values()), lane


def only(account):
    (lane,) = account["sources"].values()
    return lane


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_the_models_and_in_order(models, workers):
    given_rows = rows(300)
    running = stream(models["tflite"], Rows(given_rows), flow=Flow(workers=workers))
    found = list(running)
    assert [one.index for one in found] == list(range(300))
    np.testing.assert_array_equal([one.outputs["y"] for one in found], given_rows + 1)
    assert [one.recorded_ns for one in found] == [place * 10_000_000 for place in range(300)]
    account = running.summary()
    adds_up(account)
    assert only(account)["done"] == 300 and account["execution"]["precision"] == "float32"


def test_several_sources_share_a_model_and_take_turns(models):
    first, second = rows(200, 1), rows(100, 2)
    running = stream(models["tflite"], [Rows(first), Rows(second)])
    found = list(running)
    assert set(running.summary()["sources"]) == {"Rows", "Rows #2"}
    for name, wanted in (("Rows", first), ("Rows #2", second)):
        np.testing.assert_array_equal([one.outputs["y"] for one in found if one.source == name], wanted + 1)
    adds_up(running.summary())


def test_each_source_may_have_a_model_of_its_own(models, tmp_path):
    ways, kept = {"first": rows(150, 1), "second": rows(90, 2)}, Kept()
    also = [(models["openvino"], Rows(ways["second"]))]
    running = stream(models["tflite"], Rows(ways["first"]), also=also, sinks=[kept])
    found = list(running)
    account = running.summary()
    adds_up(account)
    assert {name: lane["model"] for name, lane in account["sources"].items()} == {
        "Rows": str(models["tflite"]),
        "Rows #2": str(models["openvino"]),
    }
    assert [one["engine"] for one in account["models"]] == ["litert", "openvino"]
    for name, given_rows in zip(account["sources"], ways.values(), strict=True):
        mine = [one for one in found if one.source == name]
        assert [one.index for one in mine] == list(range(len(given_rows)))
        np.testing.assert_array_equal([next(iter(one.outputs.values())) for one in mine], given_rows + 1)
    assert len(kept.results) == 240 and kept.closed == 1


def test_a_slow_source_does_not_hold_another_model_up(models):
    slow, quick = Rows(rows(40), live=True, rate=20), Rows(rows(500), live=True, rate=500)
    order = [one.source for one in stream(models["tflite"], slow, also=[(models["tflite"], quick)])]
    assert order[-1] == "Rows" and order.count("Rows") == 40
    assert len([name for name in order[: order.index("Rows #2")]]) < 5


def test_a_stateful_model_is_named_again_for_each_source(counter):
    ones = np.ones((9, 4), np.float32)
    found = list(stream(counter, Rows(ones[:5]), also=[(counter, Rows(ones))]))
    for name, count in (("Rows", 5), ("Rows #2", 9)):
        assert [one.outputs["y"][0] for one in found if one.source == name] == list(range(1, count + 1))


def test_models_on_a_command_line(models, tmp_path):
    for name, count in (("a", 3), ("b", 4)):
        np.savetxt(tmp_path / f"{name}.csv", rows(count), delimiter=",")
    running = stream_of_texts(models["tflite"], [f"csv:{tmp_path}/a.csv", str(models["openvino"]), f"csv:{tmp_path}/b.csv"])
    assert len(list(running)) == 7
    assert sorted(lane["done"] for lane in running.summary()["sources"].values()) == [3, 4]
    with pytest.raises(UsageError, match="--task would describe one model, there are 2"):
        stream_of_texts(models["tflite"], [f"csv:{tmp_path}/a.csv", str(models["openvino"]), "csv:b.csv"], task="regression")
    with pytest.raises(UsageError, match="has no source"):
        stream_of_texts(models["tflite"], [f"csv:{tmp_path}/a.csv", str(models["openvino"])])


@pytest.mark.parametrize("policy", ["oldest", "newest", "wait"])
def test_a_slow_consumer_costs_what_the_policy_says(models, policy):
    running = stream(models["tflite"], Rows(rows(200), live=True, rate=500), flow=Flow(policy=policy))
    found = []
    for one in running:
        time.sleep(0.01)
        found.append(one)
    account = running.summary()
    adds_up(account)
    lane = only(account)
    assert [one.index for one in found] == sorted({one.index for one in found})
    if policy == "wait":
        assert lane["done"] == 200 and not lane["dropped"]
    else:
        assert set(lane["dropped"]) == {policy} and lane["dropped"][policy] > 100
        assert policy == "newest" or found[-1].index == 199


def test_live_sources_drop_the_oldest_and_recorded_ones_wait(models):
    slow = Rows(rows(100), live=True, rate=1000), Rows(rows(100))
    for source in slow:
        running = stream(models["tflite"], source)
        for _ in running:
            time.sleep(0.005)
        assert bool(only(running.summary())["dropped"]) == source.live


def test_results_older_than_the_deadline_are_flagged_and_written(models):
    kept = Kept()
    running = stream(models["tflite"], Rows(rows(20)), sinks=[kept], flow=Flow(buffer=4, deadline_ms=0.000001))
    assert {one.status for one in running} == {"late"}
    assert len(kept.results) == 20 and only(running.summary())["late"] == 20
    running = stream(models["tflite"], Rows(rows(20)), flow=Flow(deadline_ms=60_000))
    assert {one.status for one in running} == {"done"}


def test_frames_that_cannot_be_used_fail_alone(models):
    bad = [*rows(5), np.ones(7, np.float32), *rows(5), np.full(4, np.nan, np.float32), *rows(5)]
    running = stream(models["tflite"], Rows(bad))
    found = list(running)
    assert [one.index for one in found if one.status == "failed"] == [5, 11]
    assert "(7,)" in found[5].error and "NaN" in found[11].error and not found[5].answer
    account = running.summary()
    adds_up(account)
    assert only(account)["done"] == 15 and sum(only(account)["errors"].values()) == 2


def test_a_source_that_breaks_off_ends_the_stream_after_its_results(models):
    running = stream(models["tflite"], Rows(rows(10), error=SourceError("the cable is out after 10 rows")))
    found = []
    with pytest.raises(SourceError, match="cable"):
        for one in running:
            found.append(one)
    assert len(found) == 10
    adds_up(running.summary())


def test_closing_ends_a_waiting_source_within_a_second(models):
    running = stream(models["tflite"], Rows(rows(3), live=True, endless=True))
    results = iter(running)
    assert next(results).status == "done"
    start = time.monotonic()
    running.close()
    assert time.monotonic() - start < 1.0
    adds_up(running.summary())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("capture", "infer", "sink"))]


def test_closing_from_another_thread_ends_the_iteration(models):
    for _ in range(20):
        running = stream(models["tflite"], Rows(rows(100_000)))
        closing = threading.Timer(0.02, running.close)
        closing.start()
        assert 0 < len(list(running)) < 100_000
        closing.join()
        adds_up(running.summary())


def test_a_time_limit_ends_a_stream_that_nothing_comes_from(models):
    running = stream(models["tflite"], Rows([], live=True, endless=True))
    running.stop_after(0.2)
    start = time.monotonic()
    assert list(running) == [] and 0.1 < time.monotonic() - start < 2.0


def test_what_waits_when_it_is_stopped_is_counted(models):
    running = stream(models["tflite"], Rows(rows(1000)), flow=Flow(buffer=50))
    next(iter(running))
    running.close()
    account = running.summary()
    adds_up(account)
    assert only(account)["captured"] < 1000


def test_a_slow_sink_of_a_live_stream_loses_its_own_results_only(models):
    slow, quick = Kept(seconds=0.05), Kept()
    running = stream(models["tflite"], Rows(rows(400), live=True, rate=400), sinks=[slow, quick])
    start = time.monotonic()
    count = len(list(running))
    assert time.monotonic() - start < 5.0  # 400 results would take it 20 s
    account = running.summary()
    lost = account["sinks"]["Kept"]
    assert lost["written"] + lost["lost"] == count and lost["lost"] > 100 and "slow" in lost["error"]
    assert account["sinks"]["Kept #2"] == {"written": count, "lost": 0} and len(quick.results) == count
    assert slow.closed == 1 and sum("loses results" in event for event in account["events"]) == 1


def test_a_recorded_stream_waits_for_a_sink(models):
    kept = Kept(seconds=0.003)
    running = stream(models["tflite"], Rows(rows(200)), sinks=[kept])
    assert len(list(running)) == len(kept.results) == 200


def test_a_failing_sink_is_told_of_once_and_goes_on(models):
    kept = Kept(fails=range(5, 10))
    running = stream(models["tflite"], Rows(rows(20)), sinks=[kept])
    list(running)
    account = running.summary()
    assert account["sinks"]["Kept"] == {"written": 15, "lost": 5, "error": "no room for it"}
    assert [word for event in account["events"] for word in ("loses results", "takes results again") if word in event] == [
        "loses results",
        "takes results again",
    ]


def test_the_rate_is_the_samples_own_for_recorded_ones(models):
    running = stream(models["tflite"], Rows(rows(100)), flow=Flow(rate_hz=25))  # recorded at 100 Hz
    assert [one.index for one in running] == list(range(0, 100, 4))
    account = running.summary()
    adds_up(account)
    assert only(account)["dropped"] == {"rate": 75}


def test_what_came_damaged_is_in_the_account(models):
    source = Rows(rows(30))
    read = source.read
    source.read = lambda into=None: (setattr(source, "broken", source.broken + (source.place % 10 == 3)), read(into))[1]
    running = stream(models["tflite"], source)
    assert len(list(running)) == 30
    adds_up(running.summary())
    assert (only(running.summary())["captured"], only(running.summary())["dropped"]) == (33, {"broken": 3})


def test_windows_are_those_of_numpy(models):
    data = np.repeat(rows(50)[:, :1], 1, axis=1)
    running = stream(models["tflite"], Rows(data), window=Windowing(length=4, stride=2))
    found = np.asarray([one.outputs["y"] for one in running])
    wanted = np.lib.stride_tricks.sliding_window_view(data[:, 0], 4)[::2]
    np.testing.assert_array_equal(found, wanted + 1)
    assert only(running.summary())["samples"]["samples"] == 50


def test_a_stateful_model_keeps_its_state_and_starts_anew_after_a_gap(tmp_path):
    model = _edit_tflite(testing.plus_one_tflite(tmp_path / "counter.tflite"), _make_counter)
    source = Rows(np.ones((24, 1), np.float32))
    times = [place * 10_000_000 + (10**9 if place >= 12 else 0) for place in range(24)]
    read = source.read
    source.read = lambda into=None: None if (frame := read(into)) is None else replace(frame, recorded_ns=times[frame.index])
    found = [one.outputs["y"][0] for one in stream(model, source, window=Windowing(length=4, stride=4))]
    assert found == [1, 2, 3, 1, 2, 3]


def test_pictures_may_change_their_size_and_frozen_ones_are_told_of(tmp_path):
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(4, 4, 3))

    class Pictures(Rows):
        kind = "image"

    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (8, 8, 3), np.uint8) for _ in range(5)]
    pictures += [rng.integers(0, 256, (12, 6, 3), np.uint8) for _ in range(5)]
    pictures += [pictures[-1]] * 60
    declared = Preprocess(size=(4, 4), color="rgb")
    running = stream(model, Pictures(pictures, live=True), preprocess=declared, flow=Flow(policy="wait"))
    found = list(running)
    for one, picture in zip(found, pictures, strict=True):
        np.testing.assert_array_equal(one.outputs["y"], declared.apply(picture) + 1)
    assert only(running.summary())["duplicates"] == 60
    assert any("may have frozen" in event for event in running.events)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("policy", ["oldest", "wait"])
def test_arrays_that_are_used_again_are_never_seen_half_new(tmp_path, policy, keep):
    """Every result is that of its own picture, although pictures are read into arrays of earlier ones."""
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(4, 4, 3))

    class Pictures(Rows):
        kind = "image"

        def read(self, into=None):
            frame = super().read()
            if frame is None or into is None or into.shape != frame.data.shape:
                return frame
            into[:] = frame.data
            return replace(frame, data=into)

    rng = np.random.default_rng(1)
    pictures = [np.full((4, 4, 3), rng.integers(0, 256), np.uint8) + np.arange(3, dtype=np.uint8) for _ in range(300)]
    declared = Preprocess(size=(4, 4), color="bgr")
    source = Pictures(pictures, live=policy == "oldest", rate=2000 if policy == "oldest" else None)
    for one in stream(model, source, preprocess=declared, keep_images=keep, flow=Flow(workers=2, buffer=3)):
        np.testing.assert_array_equal(one.outputs["y"], declared.apply(pictures[one.index]) + 1)
        if keep:
            np.testing.assert_array_equal(one.image, pictures[one.index])
        if policy == "oldest":
            time.sleep(0.001)


def test_what_a_model_cannot_be_given_is_refused_before_anything_runs(models, tmp_path):
    class Pictures(Rows):
        kind = "image"

    before = threading.active_count()
    with pytest.raises(UsageError, match="does not say how images become"):
        stream(models["tflite"], Pictures(rows(3)))
    with pytest.raises(UsageError, match="no policy 'latest'"):
        stream(models["tflite"], Rows(rows(3)), flow=Flow(policy="latest"))
    with pytest.raises(UsageError, match="there is no source"):
        stream(models["tflite"], [])
    with pytest.raises(EdgewrightError):
        stream(tmp_path / "no.tflite", Rows(rows(3)))
    with pytest.raises(UsageError, match="deadline"):
        Flow(deadline_ms=0)
    assert threading.active_count() <= before


def test_a_file_of_labels_is_read_as_samples_have_it(models, tmp_path):
    names, source = tmp_path / "labels.txt", tmp_path / "imu.csv"
    source.write_text("a,b,c,d\n1,2,3,4\n")
    names.write_bytes("\ufeffwalk\nrun\n\nsit\nfall\n".encode())
    with stream_of_texts(models["tflite"], [f"csv:{source}"], task="classification", labels=str(names)) as running:
        assert running.meaning.labels == ("walk", "run", "sit", "fall")
    names.write_bytes(b"walk\nr\xfcn\n")
    with pytest.raises(EdgewrightError, match=r"labels\.txt"):
        stream_of_texts(models["tflite"], [f"csv:{source}"], task="classification", labels=str(names))


def test_a_model_that_cannot_be_loaded_closes_its_sources(models, tmp_path):
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(models["tflite"].read_bytes()[:200])
    source, before = Rows(rows(3)), threading.active_count()
    with pytest.raises(EngineError, match=r"cannot load .*cut\.tflite"):
        stream(cut, source)
    assert source.closed.is_set() and threading.active_count() <= before


def test_a_source_that_cannot_be_opened_frees_the_model(models, tmp_path, monkeypatch):
    """The model is being loaded meanwhile: slowly here, so that it comes after the source's error."""
    kind, closed = engine_of(models["tflite"]), []
    load, close = kind._load, kind.close
    monkeypatch.setattr(kind, "_load", lambda session: (time.sleep(0.2), load(session)))
    monkeypatch.setattr(kind, "close", lambda session: (closed.append(session), close(session)))
    before = threading.active_count()
    with pytest.raises(SourceError, match=r"no\.csv"):
        stream(models["tflite"], f"csv:{tmp_path / 'no.csv'}")
    assert len(closed) == 1 and threading.active_count() <= before


# --- state, stopping, and what must not be lost ------------------------------------------------------------------------


@pytest.fixture
def counter(tmp_path):
    """A model whose output is the sum of all that it was given."""
    return _edit_tflite(testing.plus_one_tflite(tmp_path / "counter.tflite"), _make_counter)


def test_a_gap_is_met_by_the_next_window_if_its_own_is_dropped():
    for policy in ("oldest", "newest"):
        lane = Lane("a")
        buffer = Buffer([lane], [policy], 1)
        for fresh in (True, False, False) if policy == "oldest" else (False, True, False):
            if policy == "newest" and lane.dropped:
                buffer.take()
            buffer.put(Item(0, Frame(np.zeros(1, np.float32), 0, 0), fresh=fresh))
        assert lane.dropped[policy] and buffer.take()[1].fresh


def test_nothing_that_is_not_finite_reaches_a_state(counter):
    data = np.ones((7, 4), np.float32)
    data[3] = np.nan
    found = list(stream(counter, Rows(data)))
    assert [one.status for one in found] == ["done"] * 3 + ["failed"] + ["done"] * 3
    assert [one.outputs["y"][0] for one in found if one.status == "done"] == [1, 2, 3, 4, 5, 6]


def test_a_state_is_not_shared(counter, models):
    with pytest.raises(UsageError, match=r"keeps state .* 2 sources and 1 workers"):
        stream(counter, [Rows(rows(3)), Rows(rows(3))])
    with pytest.raises(UsageError, match="keeps state"):
        stream(counter, Rows(rows(3)), flow=Flow(workers=2))
    assert len(list(stream(models["tflite"], [Rows(rows(3)), Rows(rows(3))], flow=Flow(workers=2)))) == 6


class Stuck(Kept):
    """Never comes back from its first result."""

    def write(self, result):
        threading.Event().wait()


def test_dead_sinks_are_given_up_all_at_once(models):
    running = stream(models["tflite"], Rows(rows(20), live=True, endless=True), sinks=[Stuck(), Stuck(), Stuck()])
    running.stop_after(0.3)
    start = time.monotonic()
    list(running)
    assert time.monotonic() - start < 7.5  # one alone takes 4.5 s
    account = running.summary()
    assert account["seconds"] < 1.5
    assert all(sink["written"] == 0 and sink["lost"] > 0 for sink in account["sinks"].values())


def test_results_without_images_for_sinks_that_draw_nothing(tmp_path):
    class Drawing(Kept):
        wants_images = True

    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(4, 4, 3))
    plain, drawing = Kept(), Drawing()
    list(stream(model, "synthetic:image?count=5", sinks=[plain, drawing], preprocess=Preprocess(size=(4, 4), color="rgb")))
    assert [one.image is None for one in plain.results] == [True] * 5
    assert [one.image is None for one in drawing.results] == [False] * 5


def test_a_source_that_cannot_be_closed_keeps_nothing_else_open(models):
    class Bad(Rows):
        def close(self):
            super().close()
            raise OSError("the bus is gone")

    bad, good, kept = Bad(rows(5)), Rows(rows(5)), Kept()
    running = stream(models["tflite"], [bad, good], sinks=[kept])
    list(running)
    assert good.closed.is_set() and kept.closed == 1
    assert any("the bus is gone" in event for event in running.events)


def test_a_row_of_another_width_fails_alone_in_a_windowed_sensor(models):
    data = [*np.ones((10, 1), np.float32), np.ones(3, np.float32), *np.ones((10, 1), np.float32)]
    running = stream(models["tflite"], Rows(data), window=Windowing(length=4, stride=4))
    found = list(running)
    assert [one.status for one in found].count("failed") == 1 and [one.status for one in found].count("done") == 5
    adds_up(running.summary())


def test_a_source_that_breaks_off_beside_others_is_told_of_at_once(models):
    broken = Rows(rows(1), error=SourceError("the cable is out"))
    running = stream(models["tflite"], [broken, Rows(rows(1), live=True, endless=True)])
    end = time.monotonic() + 10
    while not running.events and time.monotonic() < end:
        time.sleep(0.01)
    assert "the cable is out" in running.events[0]
    running.close()


def test_finished_results_are_given_when_time_is_over(models):
    running = stream(models["tflite"], Rows(rows(4), endless=True))
    end = time.monotonic() + 10
    while running.lanes[0].done < 4 and time.monotonic() < end:
        time.sleep(0.01)
    running.stop_after(0.0).join()
    assert len(list(running)) == 4
    assert list(running) == [] and list(running) == []


def test_a_rate_for_windows_is_refused_and_not_ignored(models):
    with pytest.raises(UsageError, match="windows come as their stride says"):
        stream(models["tflite"], Rows(rows(9)[:, :1]), window=Windowing(length=4, stride=1), flow=Flow(rate_hz=5))


def test_a_source_that_ignores_close_does_not_go_on(models):
    class Deaf(Rows):
        def close(self):
            pass

    running = stream(models["tflite"], Deaf(rows(100_000), live=True, rate=1000))
    next(iter(running))
    running.close()
    before = running.lanes[0].captured
    time.sleep(0.1)
    assert running.lanes[0].captured <= before + 1


# --- preparing --------------------------------------------------------------------------------------------------------

SCALES = [(1.0, 0.0), (1 / 127.5, -1.0), (1 / 255, 0.0), ((1 / 58.4, 1 / 57.1, 1 / 57.4), (-2.1, -2.0, -1.8))]
INPUTS = [
    ("float32", None, None),
    ("int8", 1 / 127.5, -1),
    ("int8", 1 / 255, -128),
    ("uint8", 1 / 255, 0),
    ("int8", 0.0186, 11),
    ("int16", 1e-4, 0),
]


@given(
    st.sampled_from(SCALES),
    st.sampled_from(INPUTS),
    st.sampled_from(["stretch", "letterbox", "crop"]),
    st.sampled_from(["rgb", "bgr", "gray", None]),
    st.sampled_from(["hwc", "chw"]),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 100),
)
def test_images_are_prepared_as_the_declaration_says(scaling, spec, resize, color, layout, size, seed):
    if color == "gray" and isinstance(scaling[0], tuple):
        scaling = SCALES[0]
    declared = Preprocess(size=(12, 10), resize=resize, color=color, layout=layout, scale=scaling[0], offset=scaling[1])
    channels = 1 if color == "gray" else 3
    shape = (1, 12, 10, channels) if layout == "hwc" else (1, channels, 12, 10)
    spec = TensorSpec("x", shape, spec[0], spec[1], spec[2])
    prepare = Prepare(spec, declared)
    for number in range(2):  # the second goes through the arrays of the first
        image = np.random.default_rng(seed + number).integers(0, 256, (*size, 3), np.uint8)
        before = image.copy()
        wanted = encode(spec, declared.apply(image))[np.newaxis]
        found = prepare(image, prepare.slot())
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        np.testing.assert_array_equal(found, wanted)
        np.testing.assert_array_equal(image, before)


# --- the account ------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**11), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99]))
def test_percentiles_are_within_one_percent(durations, share):
    timings = Timings()
    for one in durations:
        timings.add(one)
    wanted = np.quantile(durations, share, method="inverted_cdf") / 1e6
    assert timings.percentile(share) == pytest.approx(wanted, rel=0.0101, abs=2e-6)
    assert timings.to_json()["count"] == len(durations)


def test_memory_growth_is_the_slope_of_the_second_half(tmp_path):
    proc = tmp_path / "proc/self"
    proc.mkdir(parents=True)
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("51500\n")
    used = Resources(tmp_path)
    for number in range(2000):
        (proc / "statm").write_text(f"9999 {1000 + number} 1\n")
        used.sample()
    assert len(used.readings) <= 512 and used.peak_rss_bytes == 2999 * 4096
    assert used.temperature_c == 51.5
    used.readings = [(float(second), 10**6 + 1000 * second) for second in range(100)]
    assert used.slope_bytes_per_minute() == pytest.approx(60_000)


def test_lanes_take_turns_and_stop_counts_what_waits():
    lanes = [Lane("a"), Lane("b")]
    buffer = Buffer(lanes, ["wait", "wait"], 3)
    for number in (0, 0, 0, 1, 1):
        lanes[number].captured += 1
        buffer.put(Item(number, Frame(np.zeros(1, np.float32), 0, 0)))
    taken = [buffer.take()[1].lane for _ in range(4)]
    assert taken == [0, 1, 0, 1]
    buffer.stop()
    assert buffer.take() is None and lanes[0].dropped == {"stop": 1} and not lanes[1].dropped


@pytest.mark.parametrize(("text", "seconds"), [("100ms", 0.1), ("2s", 2.0), ("0.5", 0.5), ("5min", 300.0)])
def test_durations(text, seconds):
    assert duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1s", "soon", "1.2.3s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UsageError, match="no duration"):
        duration_s(text)


def test_images_are_made_smaller_first(tmp_path):
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(4, 4, 3))
    declared = Preprocess(size=(4, 4), color="rgb")
    kept = Kept()
    running = stream(
        model,
        "synthetic:image?width=640&height=480&count=9",
        sinks=[kept],
        preprocess=declared,
        flow=Flow(downscale=64),
        keep_images=True,
    )
    assert {one.image.shape for one in running} == {(48, 64, 3)}
    assert len(list(stream(model, "synthetic:image?count=9", preprocess=declared, flow=Flow(downscale=64)))) == 9


@pytest.mark.parametrize("policy", ["oldest", "wait"])
def test_workers_do_not_share_a_scratch_image(tmp_path, policy):
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(224, 224, 3))

    class Pictures(Rows):
        kind = "image"

    rng = np.random.default_rng(0)
    pictures = [np.full((480, 640, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(200)]
    declared = Preprocess(size=(224, 224), color="rgb")
    source = Pictures(pictures, live=policy == "oldest", rate=400 if policy == "oldest" else None)
    for one in stream(model, source, preprocess=declared, flow=Flow(workers=2, buffer=4)):
        np.testing.assert_array_equal(one.outputs["y"], declared.apply(pictures[one.index]) + 1)


@pytest.mark.parametrize("policy", ["oldest", "wait"])
def test_a_picture_that_opencv_refuses_fails_alone(tmp_path, policy):
    model = testing.plus_one_tflite(tmp_path / "m.tflite", sample=(4, 4, 3))

    class Pictures(Rows):
        kind = "image"

    pictures = [np.full((8, 8, 3), n, np.uint8) for n in range(10)]
    pictures[5] = np.zeros((0, 8, 3), np.uint8)
    running = stream(
        model, Pictures(pictures), preprocess=Preprocess(size=(4, 4)), flow=Flow(policy=policy, workers=2, buffer=20)
    )
    found = list(running)
    assert [one.index for one in found if one.status == "failed"] == [5] and len(found) == 10
    adds_up(running.summary())
