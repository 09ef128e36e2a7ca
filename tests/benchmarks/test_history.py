"""The history: what is kept and found again, several writers, killed writers, damaged files, migrations, and the pictures."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from contextlib import closing
from pathlib import Path

import pytest
from benchmarks.compare_example import around, metric, report

from edgewright.benchmarks import history as module
from edgewright.benchmarks.compare_text import change_text, print_history, spark, value_text
from edgewright.benchmarks.gate import difference
from edgewright.benchmarks.history import History, history_file, note, set_aside
from edgewright.benchmarks.history_plot import history_svg
from edgewright.benchmarks.history_points import points_of
from edgewright.errors import EdgewrightError, UsageError

SVG = "{http://www.w3.org/2000/svg}"
TESTS = str(Path(__file__).parents[1])


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def file():
    return history_file()


def filled(file, *levels, start=0, **changes):
    """A history of one model, one report per level."""
    with History(file) as history:
        for n, level in enumerate(levels):
            assert history.add(report(around(level, seed=start + n), **changes), at=1.79e9 + 3600 * (start + n))


# ---- what is kept -------------------------------------------------------------------------------------------------------


def test_default_place(monkeypatch, tmp_path):
    assert history_file() == tmp_path / "data" / "edgewright" / "history.sqlite"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert history_file() == tmp_path / ".local" / "share" / "edgewright" / "history.sqlite"


def test_reports_come_back_whole(file):
    first = report([around(2.0), around(1.2, seed=1)], threads=(1, 2))
    first["metrics"].append(metric("arena_bytes", None, why="the engine does not tell"))
    second = report(around(2.1, seed=2), sha256="cd" * 32)
    with History(file) as history:
        assert history.add(first, at=2.0)
        assert history.add(second, "jetson", at=1.0)
        assert not history.add(first), "the same report twice"
        found = history.query()
        assert [one.report for one in found] == [second, first], "the oldest first"
        assert [one.device for one in found] == ["jetson", "pi5"]
        assert [(one.model, one.sha256, one.library) for one in found[:1]] == [("net.tflite", "cd" * 32, "ai-edge-litert 2.3.0")]
        assert [(s.model, s.device, s.engine, s.count) for s in history.series()] == [
            ("net.tflite", "pi5", "litert", 1),
            ("net.tflite", "jetson", "litert", 1),
        ]
    with sqlite3.connect(file) as plain:
        rows = plain.execute(
            "SELECT name, subject, value, why_absent FROM figures JOIN reports ON figures.report = reports.id WHERE at = 2.0"
        ).fetchall()
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    plain.close()
    expected = [(one["name"], one["subject"], one["value"], one["why_absent"]) for one in first["metrics"]]
    assert sorted(map(str, rows)) == sorted(map(str, expected))


@pytest.mark.parametrize("asked", ["net.tflite", "net", "models/net.tflite", "other/net.tflite", "ABABAB", "ab" * 32])
def test_finding_a_model(file, asked):
    filled(file, 2.0)
    filled(file, 3.0, start=1, model__path="other_net.onnx", model__sha256="cd" * 32)
    with History(file) as history:
        assert [one.sha256 for one in history.query(asked)] == ["ab" * 32]
        assert len(history.query(asked, "pi5")) == 1


@pytest.mark.parametrize("asked", [("ne%", None), ("ababa", None), ("et.tflite", None), ("net", "pi4"), ("", None)])
def test_a_model_that_is_not_there(file, asked):
    filled(file, 2.0)
    with History(file) as history, pytest.raises(UsageError, match="the history has no measurement"):
        history.query(*asked)


def test_windows_paths_have_names_too(file):
    filled(file, 2.0, model__path="C:\\models\\net.v2.tflite")
    with History(file) as history:
        assert history.query("net.v2")[0].model == "net.v2.tflite"


def test_adding_after_a_benchmark_never_fails(file, caplog):
    note(report(around(2.0)))
    with History(file) as history:
        assert len(history.query()) == 1
    file.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    note(report(around(2.1)))
    assert "the history does not have this report" in caplog.text and "--set-aside" in caplog.text


# ---- writers, kills, damage ---------------------------------------------------------------------------------------------

_WRITER = f"""
import sys
sys.path.insert(0, {TESTS!r})
from benchmarks.compare_example import around, report
from edgewright.benchmarks.history import History
first = int(sys.argv[1])
for n in range(first, first + int(sys.argv[2])):
    with History() as history:
        history.add(report(around(2.0, seed=n)), at=float(n))
"""

_IN_THE_MIDDLE = f"""
import os, signal, sys
sys.path.insert(0, {TESTS!r})
from benchmarks.compare_example import around, report
from edgewright.benchmarks import history as module
count = 0
def killed(value):
    global count
    count += 1
    if count == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return value
module._storable = killed
with module.History() as history:
    if sys.argv[1] == "flushed":  # pages reach the log before the transaction ends
        history._file.execute("PRAGMA cache_size = 1")
    history.add(report(around(2.0, seed=99)), at=99.0)
"""


def sound(file):
    """Reports in the file, whose figures are all there."""
    with closing(sqlite3.connect(file)) as plain:
        assert plain.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if plain.execute("PRAGMA user_version").fetchone() == (0,):  # a writer has just begun it
            return 0
        counts, reports = plain.execute(
            "SELECT group_concat(number), count(*) FROM"
            " (SELECT count(figures.report) AS number FROM reports LEFT JOIN figures ON figures.report = id GROUP BY id)"
        ).fetchone()
    assert len(set((counts or "").split(","))) == 1
    return reports


def test_writers_at_once(file):
    children = [
        subprocess.Popen([sys.executable, "-c", _WRITER, str(first), "15"], stdout=subprocess.DEVNULL)
        for first in (0, 1000, 2000)
    ]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    assert sound(file) == 45


@pytest.mark.parametrize("how", ["buffered", "flushed"])
def test_a_kill_in_the_middle_of_writing(file, how):
    filled(file, 2.0, 2.1)
    done = subprocess.run([sys.executable, "-c", _IN_THE_MIDDLE, how], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert sound(file) == 2
    filled(file, 2.2, start=2)
    assert sound(file) == 3


def test_kills_at_any_moment(file):
    kept = 0
    for n in range(4):
        child = subprocess.Popen([sys.executable, "-c", _WRITER, str(1000 * n), "100000"])
        try:
            found, last = 0, time.monotonic() + 60
            while found < kept + 3 and time.monotonic() < last:
                found = sound(file) if file.is_file() else 0
        finally:
            child.kill()
            child.wait()
        kept = sound(file)
        assert kept >= found >= 3 * (n + 1)


@pytest.mark.parametrize("damage", ["another file", "torn head", "torn page"])
def test_a_damaged_file_is_told_and_left_alone(file, damage):
    filled(file, *[2.0] * 8)
    data = bytearray(file.read_bytes())
    if damage == "another file":
        data[:] = b"PK\3\4 this is a zip" * 400
    elif damage == "torn head":
        data[:16] = bytes(16)
    else:
        data[4096 : 4096 + 12000] = b"\xff" * 12000
    file.write_bytes(data)
    with (
        pytest.raises(EdgewrightError, match=f"the history {re.escape(str(file))} is damaged") as error,
        History(file) as history,
    ):
        history.query()
        history.add(report(around(3.0)))
    assert "edgewright history --set-aside" in error.value.hint
    assert file.read_bytes() == data
    moved = set_aside(file)
    assert moved.read_bytes() == data and moved.name == "history.sqlite.old-1" and not file.exists()
    filled(file, 2.0)
    assert sound(file) == 1
    assert set_aside(file).name == "history.sqlite.old-2"


def test_a_log_left_behind_goes_with_the_old_file(file):
    filled(file, 2.0)
    holder = sqlite3.connect(file)  # as long as somebody reads, SQLite leaves its log there
    holder.execute("SELECT count(*) FROM reports").fetchone()
    filled(file, 2.1, start=1)
    assert file.with_name("history.sqlite-wal").stat().st_size > 0
    moved = set_aside(file)
    assert moved.with_name("history.sqlite.old-1-wal").exists() and not file.with_name("history.sqlite-wal").exists()
    holder.close()
    assert sound(moved) == 2
    filled(file, 2.0)
    assert sound(file) == 1


def test_files_that_are_no_history_of_ours(file):
    file.parent.mkdir(parents=True)
    with sqlite3.connect(file) as plain:
        plain.execute("CREATE TABLE songs (title TEXT)")
    plain.close()
    with pytest.raises(EdgewrightError, match="is a database, but no history of Edgewright"):
        History(file)


def test_a_newer_release_wrote_it(file):
    filled(file, 2.0)
    with sqlite3.connect(file) as plain:
        plain.execute("PRAGMA user_version = 7")
    plain.close()
    with pytest.raises(EdgewrightError, match="has version 7, this release knows up to 1"):
        History(file)
    assert sound(file) == 1


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    with pytest.raises(EdgewrightError, match=r"cannot be used: [A-Z]") as error:
        History()
    assert "XDG_DATA_HOME" in error.value.hint


def test_migration_keeps_what_is_there(file, monkeypatch):
    filled(file, 2.0, 2.1)
    second = ("ALTER TABLE reports ADD COLUMN note TEXT NOT NULL DEFAULT 'old'",)
    monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, (*second, "ALTER TABLE absent ADD COLUMN x")))
    with pytest.raises(EdgewrightError, match="no such table: absent"):
        History(file)
    monkeypatch.setattr(module, "MIGRATIONS", (module.MIGRATIONS[0], second))
    filled(file, 2.2, start=2)
    with sqlite3.connect(file) as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (2,)
        assert plain.execute("SELECT count(*) FROM reports WHERE note = 'old'").fetchone() == (3,)
    plain.close()


# ---- what changed -------------------------------------------------------------------------------------------------------


def points(file, *asked, metric="p50"):
    with History(file) as history:
        return points_of(history.query(*asked), metric)


def test_changes_since_the_one_before(file):
    filled(file, 2.0, 2.02, 2.4)
    filled(file, 2.41, start=3, model__sha256="cd" * 32, model__library="ai-edge-litert 2.4.0")
    found = points(file)
    assert [point.regressed for point in found] == [False, False, True, False]
    assert found[0].change is None
    assert found[2].change == difference(around(2.02, seed=1), around(2.4, seed=2))
    assert [point.note for point in found] == ["", "", "", "ai-edge-litert 2.3.0 before, another file"]
    assert found[0].figures["p50"].value == pytest.approx(sum(around(2.0)) / 10)
    assert json.loads(json.dumps(found[2].to_json()))["change"]["low"] == found[2].change.low


def test_only_what_is_alike_is_compared(file):
    filled(file, 2.0)
    filled(file, 3.0, start=1, model__engine="openvino")
    filled(file, 4.0, start=2, settings__fingerprint="e" * 16)
    filled(file, 5.0, start=3, model__execution__precision="float32")
    filled(file, 6.0, start=4, settings__device="pi4")
    assert all(point.change is None for point in points(file))
    filled(file, 2.01, start=5)
    assert abs(points(file)[-1].change.change) < 0.02
    with History(file) as history:
        history.add(report([around(1.2), around(2.0, seed=9)], threads=(2, 1)), at=1.8e9)
    last = points(file)[-2:]
    assert [(point.threads, point.change is None) for point in last] == [(2, True), (1, False)]


def test_an_unknown_figure(file):
    filled(file, 2.0)
    with pytest.raises(UsageError, match="no figure 'p95'"):
        points(file, metric="p95")


# ---- pictures -----------------------------------------------------------------------------------------------------------


def test_picture(file):
    levels = (2.0, 2.02, 2.4, 2.38, 1.9)
    filled(file, *levels)
    tree = ElementTree.fromstring(history_svg(points(file), "p50"))
    circles = [one for one in tree.iter(f"{SVG}circle") if one.get("class").startswith("point")]
    whiskers = [one for one in tree.iter(f"{SVG}path") if one.get("class") == "whisker"]
    rings = [one for one in tree.iter(f"{SVG}circle") if one.get("class") == "ring"]
    assert len(circles) == len(whiskers) == 5 and len(rings) == 1
    xs, ys = ([float(one.get(key)) for one in circles] for key in ("cx", "cy"))
    assert xs == sorted(xs) and sorted(range(5), key=lambda n: -ys[n]) == sorted(range(5), key=lambda n: levels[n])
    assert (rings[0].get("cx"), rings[0].get("cy")) == (circles[2].get("cx"), circles[2].get("cy"))
    # One scale for all: equal differences of the figure are equal distances.
    means = [point.figures["p50"].value for point in points(file)]
    scale = (ys[2] - ys[0]) / (means[2] - means[0])
    assert ys[4] == pytest.approx(ys[0] + scale * (means[4] - means[0]), abs=0.2)
    begin, end = map(float, re.match(r"M[\d.]+ ([\d.]+)V([\d.]+)", whiskers[1].get("d")).groups())
    assert begin > ys[1] > end
    texts = [one.text for one in tree.iter(f"{SVG}text")]
    assert "net.tflite on pi5" in texts and any(re.fullmatch(r"\+1[89]\.\d %", text or "") for text in texts)


def test_picture_has_a_panel_for_each_series_and_escapes_names(file):
    filled(file, 2.0, 2.1, model__path="<net> & \x1b[31m.tflite")
    filled(file, 5.0, start=2, model__path="<net> & \x1b[31m.tflite", settings__device="pi4")
    text = history_svg(points(file), "p50")
    tree = ElementTree.fromstring(text)
    names = [one.text for one in tree.iter(f"{SVG}text") if one.get("class") == "name"]
    assert names == ["<net> & \ufffd[31m.tflite on pi5", "<net> & \ufffd[31m.tflite on pi4"]
    assert "\x1b" not in text


def test_picture_of_one_and_of_none(file):
    filled(file, 2.0)
    assert len(list(ElementTree.fromstring(history_svg(points(file), "p50")).iter(f"{SVG}circle"))) == 1
    assert "no measurement has a figure called p99" in history_svg(points(file, metric="p99"), "p99")


def test_table(file, capsys):
    filled(file, 2.0, 2.02, 2.4)
    print_history(points(file), "p50")
    out = capsys.readouterr().out
    assert re.search(r"abababab +ai-edge-litert 2\.3\.0 +2\.4\d\d ms +\d\.\d+ - \d\.\d+ .*\+1\d\.\d % \(.*\) +regressed", out)
    assert re.search(r"latency p50: 2\.0\d\d ms ▁▁█ 2\.4\d\d ms", out) or "_" in out


def test_a_narrow_terminal_shows_whole_figures(file, capsys, monkeypatch):
    filled(file, 2.0, 2.02, 2.4)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_history(points(file), "p50")
    out = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert re.search(r"2\.4\d\d ms .*\+1\d\.\d % \(.*%\) +regressed", out) and "…" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_spark():
    assert spark([1, 2, 3]) == "▁▅█" and spark([4, 4]) == "▄▄"


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (1.23456, "ms", "1.235 ms"),
        (0.0123, "ms", "12.30 us"),
        (1234.5, "ms", "1.234 s"),
        (0.0, "ms", "0 ms"),
        (3914600, "bytes", "3,822.9 KiB"),
        (900, "bytes", "900 bytes"),
        (12.345, "mJ", "12.35 mJ"),
    ],
)
def test_values(value, unit, expected):
    assert value_text(value, unit) == expected


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, "0 %"),
        (0.0312, "+3.1 %"),
        (-0.5, "-50.0 %"),
        (1.5, "+150 %"),
        (16049069.3, "over 100x"),
        (float("inf"), "over 100x"),
    ],
)
def test_changes(share, expected):
    assert change_text(share) == expected


def test_nothing_is_left_beside_a_closed_history(file):
    filled(file, 2.0)
    assert list(file.parent.iterdir()) == [file]
