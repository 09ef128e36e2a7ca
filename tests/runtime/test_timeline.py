"""Pictures of decisions over time: read back from the SVG and compared with what was decided."""

import math
import tracemalloc
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.errors import SinkError, UsageError
from edgewright.runtime.address import parse_address
from edgewright.runtime.frames import Result
from edgewright.runtime.sinks import SINKS
from edgewright.runtime.sinks.timeline import TimelineSink

SVG = "{http://www.w3.org/2000/svg}"
SECOND = 10**9


def result(at_s: float, answer: dict[str, Any], source: str = "imu", status: Any = "done", **more: Any) -> Result:
    at = round(at_s * SECOND)
    more = {"recorded_ns": at} | more
    return Result(0, source, status, at, at + 2_000_000, answer=answer, error="broken" if status == "failed" else "", **more)


def label(name: str, score: float = 1.0) -> dict[str, Any]:
    return {"class": ord(name[0]), "label": name, "score": score}


def drawn(path: Path, results: Any, **more: Any) -> ET.Element:
    sink = TimelineSink(path, **{"every_s": 1e9} | more)
    for one in results:
        sink.write(one)
    assert sink.close() == 0 == sink.close()
    return ET.fromstring(path.read_bytes())


def group(root: ET.Element, row: str) -> ET.Element:
    (found,) = [one for one in root.iter(f"{SVG}g") if one.get("data-row") == row]
    return found


def rows(root: ET.Element) -> list[str]:
    return [one.attrib["data-row"] for one in root.iter(f"{SVG}g") if "data-row" in one.attrib]


def pixels(root: ET.Element, row: str) -> list[tuple[float, float]]:
    found = [(float(bar.attrib["x"]), float(bar.attrib["width"])) for bar in group(root, row).iter(f"{SVG}rect")]
    return [(x, x + width) for x, width in found]


def union(spans: list[tuple[float, float]], near: float) -> list[tuple[float, float]]:
    found: list[tuple[float, float]] = []
    for start, end in sorted(spans):
        if found and start - found[-1][1] <= near:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def text(root: ET.Element) -> str:
    return "\n".join(one.text or "" for one in root.iter(f"{SVG}text"))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ABCD"), st.floats(0, 1)), min_size=2, max_size=80))
def test_bars_cover_the_seconds_in_which_it_was_decided(tmp_path_factory: pytest.TempPathFactory, decided: Any) -> None:
    root = drawn(tmp_path_factory.getbasetemp() / "a.svg", [result(n, label(c, s)) for n, (c, s) in enumerate(decided)])
    assert set(rows(root)) == {c for c, _ in decided} | {"age"}
    every = [edge for name in {c for c, _ in decided} for span in pixels(root, name) for edge in span]
    left, right = min(every), max(every)
    for name in {c for c, _ in decided}:
        wanted = union([(n, n + 1) for n, (c, _) in enumerate(decided) if c == name], 1e-9)
        found = union(pixels(root, name), 0.01)
        scaled = [((a - left) / (right - left) * len(decided), (b - left) / (right - left) * len(decided)) for a, b in found]
        np.testing.assert_allclose(scaled, wanted, atol=1e-3)


def test_scores_make_bars_darker_and_a_single_output_tells_of_class_one(tmp_path: Path) -> None:
    root = drawn(tmp_path / "a.svg", [result(0, label("A", 0.3)), result(1, label("B", 0.9)), result(2, label("B", 0.9))])
    (faint,), (dark,) = (list(group(root, name).iter(f"{SVG}rect")) for name in "AB")
    assert float(faint.attrib["fill-opacity"]) < float(dark.attrib["fill-opacity"]) <= 1
    sure = {"class": 0, "label": "off", "score": 0.02}
    root = drawn(tmp_path / "b.svg", [result(n, sure, outputs={"y": np.zeros(1)}) for n in range(3)])
    (bar,) = group(root, "off").iter(f"{SVG}rect")
    assert float(bar.attrib["fill-opacity"]) > 0.9


def test_gaps_stay_empty_and_failed_and_late_results_are_marked(tmp_path: Path) -> None:
    moments = [*range(10), *range(30, 40)]
    status = {5: "failed", 32: "late"}
    root = drawn(tmp_path / "a.svg", [result(t, label("A") if t != 5 else {}, status=status.get(t, "done")) for t in moments])
    titles = [bar[0].text for bar in group(root, "A").iter(f"{SVG}rect")]
    assert titles == ["0 to 5 s", "6 to 10 s", "30 to 40 s"]
    assert [bar[0].text for bar in group(root, "failed").iter(f"{SVG}rect")] == ["5 to 6 s"]
    assert [bar[0].text for bar in group(root, "late").iter(f"{SVG}rect")] == ["32 to 33 s"]
    assert "18 done · 1 late · 1 failed" in text(root)


def anomaly(score: float) -> dict[str, Any]:
    return {"anomaly": score > 0.6, "score": score, "threshold": 0.6}


def test_one_anomaly_among_100_000_windows_stays_visible(tmp_path: Path) -> None:
    odd = 77_777
    root = drawn(tmp_path / "a.svg", (result(n, anomaly(5.0 if n == odd else 0.1 + n % 3 / 100)) for n in range(100_000)))
    (bar,) = group(root, "anomaly").iter(f"{SVG}rect")
    assert bar[0].text == f"{odd} to {odd + 1} s, anomaly" and float(bar.attrib["width"]) >= 1
    (band,) = [one for one in root.iter(f"{SVG}path") if "l0" in one.get("class", "").split()]
    points = [tuple(map(float, point.split())) for point in band.attrib["d"].strip("MZ").split("L")]
    x, top = min(points, key=lambda point: point[1])
    assert sum(y < top + 50 for _, y in points) == 1, "the spike is one point, the others are at the bottom"
    assert abs(x - float(bar.attrib["x"])) < 2
    assert "thinned" in text(root) and (tmp_path / "a.svg").stat().st_size < 500_000
    limits = [one for one in root.iter(f"{SVG}path") if one.get("class") == "limit"]
    assert len(limits) == 1


def test_a_class_decided_once_stays_visible_when_bars_are_thinned(tmp_path: Path) -> None:
    names = ("rare" if n == 20_001 else "A" if n % 2 else "B" for n in range(30_000))
    root = drawn(tmp_path / "a.svg", (result(n, label(name)) for n, name in enumerate(names)))
    assert len(pixels(root, "rare")) == 1
    bars = [bar for name in ("A", "B", "rare") for bar in group(root, name).iter(f"{SVG}rect")]
    assert len(bars) <= 2001 and "thinned" in text(root)


def test_memory_is_bounded_whatever_comes(tmp_path: Path) -> None:
    def hostile(n: int) -> Result:
        boxes = [{"label": f"thing {n}", "track": n, "score": 0.5}, {"label": "x", "track": n // 7}]
        answer = ({"class": n, "label": f"class {n}", "score": 0.5}, {"boxes": boxes}, {"values": [n] * 50})[n % 3]
        return result(n * (1 + n % 5), answer, "failed" if n % 11 == 0 else "imu")

    sink, held = TimelineSink(tmp_path / "a.svg", every_s=1e9), []
    tracemalloc.start()
    for n in range(8000):
        sink.write(hostile(n))
        if n % 2000 == 1999:
            held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    sink.close()
    assert max(held) < 6_000_000 and held[-1] < 1.3 * max(held[1:3]), held
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert len(rows(root)) <= 2 * 28 and any(row.endswith("others") for row in rows(root))
    assert (tmp_path / "a.svg").stat().st_size < 2_000_000


def test_boxes_tracks_and_values(tmp_path: Path) -> None:
    cat = {"box": [0, 0, 1, 1], "label": "cat", "score": 1.0, "track": 7}
    seen = [result(n, {"boxes": [cat] * (3 <= n < 6)}, "camera") for n in range(10)]
    values = [result(n, {"values": list(range(9))}, "drift") for n in range(10)]
    root = drawn(tmp_path / "a.svg", [*seen, *values])
    (bar,) = group(root, "cat #7").iter(f"{SVG}rect")
    assert bar[0].text == "3 to 6 s"
    said = text(root)
    assert "boxes" in said and "value 5" in said and "value 6" not in said
    assert [one[0].text for one in root.iter(f"{SVG}g") if one.get("class") == "panel"] == ["camera", "drift"]


def test_hostile_text_and_numbers_make_a_valid_picture(tmp_path: Path) -> None:
    bad = '</svg><script>alert("1")</script>&\x00\x1b\ud800\n' + "漢" * 300
    odd = [math.nan, math.inf, -math.inf, 1e308, -1e308, None, "text", 10**400]
    found = [result(n, {"class": 1, "label": bad, "score": value}, bad) for n, value in enumerate(odd)]
    found += [result(n, {"anomaly": None, "score": value, "threshold": None}, "a") for n, value in enumerate(odd)]
    found += [result(n, {"values": [value]}, "b") for n, value in enumerate(odd)]
    found += [result(n, {"outputs": {bad: [value], "big": {"shape": [9]}}}, "c") for n, value in enumerate(odd)]
    root = drawn(tmp_path / "a.svg", found)
    assert not list(root.iter(f"{SVG}script"))
    assert not {"nan", "inf"} & {word for one in root.iter(f"{SVG}path") for word in one.attrib["d"].replace("L", " ").split()}
    assert "…" in text(root)


def test_a_clock_that_jumps_is_read_on_and_the_picture_says_so(tmp_path: Path) -> None:
    loop = [*range(5), *range(5), 60 * 365 * 86400]
    root = drawn(tmp_path / "a.svg", [result(t, label("A")) for t in loop])
    assert [bar[0].text for bar in group(root, "A").iter(f"{SVG}rect")] == ["0 to 11 s"]
    assert "the clock jumped 2 times" in text(root)


@pytest.mark.parametrize(
    ("start", "said"), [(1_764_068_896, "2025-11-25 11:08:16 UTC"), (3, "recorded time"), (-9, "since the first")]
)
def test_the_axis_says_from_where_time_counts(tmp_path: Path, start: int, said: str) -> None:
    assert said in text(drawn(tmp_path / "a.svg", [result(start + n, label("A")) for n in range(3)]))


def test_sources_without_recorded_time_share_their_zero(tmp_path: Path) -> None:
    both = [
        result(1000 + n, label("A"), source, recorded_ns=None) for n in range(6) for source in (["a", "b"] if n > 2 else ["a"])
    ]
    root = drawn(tmp_path / "a.svg", both)
    bars = [bar[0].text for one in root.iter(f"{SVG}g") if one.get("data-row") == "A" for bar in one.iter(f"{SVG}rect")]
    assert bars == ["0 to 6 s", "3 to 6 s"]


def test_ages_grow_visibly(tmp_path: Path) -> None:
    found = [
        Result(n, "a", "done", n * SECOND, n * SECOND + (1 + n) * 1_000_000, recorded_ns=n * SECOND, answer=label("A"))
        for n in range(500)
    ]
    root = drawn(tmp_path / "a.svg", found)
    heights = [float(bar.attrib["height"]) for bar in group(root, "age").iter(f"{SVG}rect")]
    highest, half = heights[::2], heights[1::2]
    assert highest == sorted(highest) and highest[-1] == pytest.approx(40) and len(highest) >= 50
    assert all(0.85 * h <= m + 1 <= h + 1.01 for h, m in zip(highest[10:], half[10:], strict=True))
    assert "500" in text(root).split("\n")


def test_the_file_is_replaced_whole_and_not_too_often(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text("of yesterday")
    TimelineSink(path).close()
    assert path.read_text() == "of yesterday"
    sink = TimelineSink(path, every_s=1e9)
    sink.write(result(0, label("A")))
    first, inode = path.read_bytes(), path.stat().st_ino
    with path.open("rb") as held:
        sink.write(result(1, label("B")))
        assert path.read_bytes() == first
        sink.close()
        assert held.read() == first, "a reader keeps the picture that it opened"
    assert path.stat().st_ino != inode and "B" in rows(ET.parse(path).getroot())
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(SinkError, match="closed"):
        sink.write(result(2, label("A")))


def test_an_unwritable_place_is_told_and_the_earlier_picture_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SinkError, match="nowhere"):
        TimelineSink(tmp_path / "nowhere" / "a.svg")
    with pytest.raises(SinkError, match="cannot be written"):
        TimelineSink(tmp_path)
    path, said = tmp_path / "a.svg", []
    sink = TimelineSink(path, every_s=1e9)
    sink.tell = said.append
    sink.write(result(0, label("A")))
    before = path.read_bytes()

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    sink.write(result(1, label("A")))
    assert sink.close() == 1 and "cannot be written" in said[0]
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    other = TimelineSink(tmp_path / "b.svg")
    with pytest.raises(SinkError, match="No space left"):
        other.write(result(0, label("A")))


def test_it_opens_by_its_address(tmp_path: Path) -> None:
    address = parse_address(f"timeline:{tmp_path}/a.svg?width=600&every=2")
    sink = SINKS.get("timeline").of(address)
    sink.write(result(0, label("A")))
    sink.close()
    root = ET.parse(tmp_path / "a.svg").getroot()
    assert root.get("width") == "600" and "prefers-color-scheme:dark" in (root.find(f"{SVG}style").text or "")
    for setting in ("width=3", "every=0", "hight=2"):
        with pytest.raises(UsageError):
            SINKS.get("timeline").of(parse_address(f"timeline:{tmp_path}/a.svg?{setting}"))
