"""Shares of multiply-adds by device, and what `--expect` refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgewright.benchmarks.bench_run import misplaced
from edgewright.benchmarks.placement import Expectation, check, parse_expectation, record
from edgewright.errors import PlacementError, UsageError
from edgewright.report import Report
from edgewright.runtime import open_session
from tests.runtime import placed_models

FULL = Expectation("delegate", 1.0)


def ops(*rows: tuple[str, str, bool, int | None, str]) -> dict[str, Any]:
    """A record of ops given as (type, device, delegate, macs, reason)."""
    keys = ("op", "device", "delegate", "macs", "reason")
    return {"ops": [{"index": at, "name": f"n{at}", **dict(zip(keys, row, strict=True))} for at, row in enumerate(rows)]}


class TestWords:
    @pytest.mark.parametrize(
        ("text", "where", "share"),
        [
            ("delegate>=95%", "delegate", 0.95),
            ("Delegate >= 95 %", "delegate", 0.95),
            ("xnnpack>=99.5%", "xnnpack", 0.995),
            ("NPU>=0%", "NPU", 0.0),
            ("XNNPACK delegate>=100%", "XNNPACK delegate", 1.0),
        ],
    )
    def test_understood(self, text: str, where: str, share: float) -> None:
        found = parse_expectation(text)
        assert found.where == where and found.share == pytest.approx(share)
        assert parse_expectation(str(found)) == found

    @pytest.mark.parametrize(
        "text", ["", "delegate", "95%", "delegate>=95", "delegate>95%", "delegate>=101%", ">=5%", "a>=1.2.3%", "a>=%"]
    )
    def test_refused(self, text: str) -> None:
        with pytest.raises(UsageError) as caught:
            parse_expectation(text)
        assert caught.value.exit_code == 2 and text in caught.value.message and "delegate>=95%" in caught.value.hint


class TestRealModels:
    def test_dynamic_int8_falls_short(self, tmp_path: Path) -> None:
        """By hand: 3x3 convolution 1,179,648, depthwise 147,456, 1x1 131,072: 89.88 % without the depthwise one."""
        with open_session(placed_models.dynamic(tmp_path / "m.tflite")) as session:
            placed = json.loads(json.dumps(record(session)))
        assert placed["macs"] == 1179648 + 147456 + 131072
        assert placed["delegate"] == {"ops": 2, "macs": 1310720, "macs_share": 1310720 / 1458176}
        assert [entry["device"] for entry in placed["devices"]] == ["CPU, XNNPACK delegate", "CPU, built-in kernels"]
        check(placed, parse_expectation("delegate>=89%"))
        check({"placement": placed}, parse_expectation("xnnpack>=89%"))
        check(placed, parse_expectation("CPU>=100%"))
        with pytest.raises(PlacementError) as caught:
            check({"placement": placed}, parse_expectation("delegate>=95%"))
        assert caught.value.exit_code == 3
        assert caught.value.message == (
            "89.88 % of the multiply-adds run in a delegate (2 of 3 ops), delegate>=95% was expected; outside: "
            "1 DEPTHWISE_CONV_2D, 10.11 %: 'depthwise' (dynamic int8 (float32 activations, int8 weights): "
            "XNNPACK does not do that in DEPTHWISE_CONV_2D)"
        )
        assert "int8" in caught.value.hint

    @pytest.mark.parametrize(
        ("write", "share", "why"),
        [
            ("int16", r"0 % of .*\(0 of 1 ops\)", "1 CONV_2D, 100 %: 'y' .*int16 activations"),
            ("loop", r"20 % of .*\(1 of 2 ops\)", "1 WHILE, 80 %: 'steps' .*graphs of its own"),
        ],
    )
    def test_what_no_delegate_takes(self, tmp_path: Path, write: str, share: str, why: str) -> None:
        with open_session(getattr(placed_models, write)(tmp_path / "m.tflite")) as session:
            placed = record(session)
        with pytest.raises(PlacementError, match=f"{share}.*{why}"):
            check(placed, parse_expectation("delegate>=95%"))

    def test_all_in_the_delegate(self, tmp_path: Path) -> None:
        with open_session(placed_models.heavy(tmp_path / "m.tflite")) as session:
            check(record(session), FULL)

    def test_an_op_without_multiply_adds_does_not_count(self, tmp_path: Path) -> None:
        with open_session(placed_models.islands(tmp_path / "m.tflite")) as session:
            placed = record(session)
        assert (placed["delegate"]["ops"], placed["count"], placed["delegate"]["macs_share"]) == (2, 3, 1.0)
        check(placed, FULL)

    def test_openvino_has_devices(self, tmp_path: Path) -> None:
        with open_session(placed_models.heavy(tmp_path / "m.tflite"), engine="openvino") as session:
            placed = record(session)
        check(placed, parse_expectation("cpu>=100%"))
        with pytest.raises(PlacementError, match=r"^0 % .* run in NPU \(0 of \d+ ops\), NPU>=90% was expected") as caught:
            check(placed, parse_expectation("NPU>=90%"))
        assert caught.value.hint == "it ran on CPU: name one of these, or choose an engine that has NPU"
        with pytest.raises(PlacementError, match="no accelerator was asked for") as caught:
            check(placed, FULL)
        assert "all of it ran on CPU" in caught.value.hint


class TestShares:
    def test_ops_count_where_there_are_no_multiply_adds(self) -> None:
        placed = ops(("ADD", "D", True, 0, ""), ("GATHER", "C", False, 0, "XNNPACK has no GATHER"))
        check(placed, Expectation("delegate", 0.5))
        with pytest.raises(PlacementError, match=r"^1 of 2 ops run in a delegate, delegate>=60% .*GATHER: 'n1' \(XNNPACK has no"):
            check(placed, Expectation("delegate", 0.6))

    def test_unknown_counts_are_not_taken_for_nothing(self) -> None:
        placed = ops(("CONV_2D", "D", True, 100, ""), ("Custom", "C", False, None, "a custom op"))
        with pytest.raises(PlacementError, match=r"100 % .* but 1 ops outside have an unknown number of them"):
            check(placed, Expectation("delegate", 0.95))

    def test_a_share_is_not_rounded_up_to_the_limit(self) -> None:
        placed = ops(("A", "D", True, 94999, ""), ("B", "C", False, 5001, "why"))
        with pytest.raises(PlacementError, match=r"^94\.99 % .*delegate>=95% was expected"):
            check(placed, Expectation("delegate", 0.95))

    def test_many_ops_stay_readable(self) -> None:
        rows = [("CONV_2D", "C", False, 10, "why")] * 40 + [(f"OP{at}", "C", False, 1, "why") for at in range(30)]
        rows.append(("FULLY_CONNECTED", "C", False, 1000, "other"))
        with pytest.raises(PlacementError) as caught:
            check(ops(*rows), FULL)
        message = caught.value.message
        assert message.index("FULLY_CONNECTED") < message.index("40 CONV_2D")  # the heaviest reason first
        assert "'n0', 'n1', 'n2' ..." in message and "'n3'" not in message
        assert "other ops (why)" in message and len(message) < 1500

    def test_long_names(self) -> None:
        """As converters write them: fused layers joined, each a path under the model's name."""
        placed = ops(*[("CONV_2D", "C", False, 1, "why")] * 2)
        for at, op in enumerate(placed["ops"]):
            op["name"] = f"network_1/block_{at}_depthwise_relu/Relu6;network_1/block_{at}_depthwise/depthwise_of_some_length"
        with pytest.raises(PlacementError, match=r": 'block_0_depthwise/depthwise_of_some_length', 'block_1_"):
            check(placed, FULL)

    def test_no_placement(self) -> None:
        with pytest.raises(PlacementError, match="not known where the ops run: the engine does not tell"):
            check({"placement": {"why_absent": "the engine does not tell"}}, FULL)

    @given(
        st.lists(st.tuples(st.booleans(), st.integers(0, 1000)), min_size=1, max_size=20),
        st.floats(0, 1),
    )
    def test_refused_exactly_where_the_share_is_less(self, rows: list[tuple[bool, int]], limit: float) -> None:
        placed = ops(*(("OP", "D", taken, macs, "") for taken, macs in rows))
        total = sum(macs for _, macs in rows)
        inside = [macs for taken, macs in rows if taken]
        share = np.divide(sum(inside), total) if total else len(inside) / len(rows)
        if share >= limit:
            check(placed, Expectation("delegate", limit))
        else:
            with pytest.raises(PlacementError):
                check(placed, Expectation("delegate", limit))


def report_of(placed: dict[int, dict[str, Any]], board: str = "") -> Report:
    """A benchmark's report with these placements by thread count."""
    details = {f"threads={count}": {"placement": found} for count, found in placed.items()}
    details = details if len(placed) > 1 else next(iter(details.values()))
    return Report("bench", {}, {"threads": list(placed), "device": {"name": board}}, (), details=details)


class TestReports:
    ALL = ops(("CONV_2D", "D", True, 100, ""))
    HALF = ops(("CONV_2D", "D", True, 100, ""), ("CONV_2D", "C", False, 100, "why"))

    def test_one_thread_count_goes_without_saying(self) -> None:
        assert misplaced([report_of({4: self.ALL})], [FULL]) == []
        [error] = misplaced([report_of({4: self.HALF})], [FULL])
        assert error.message.startswith("50 % of the multiply-adds run in a delegate")

    def test_each_thread_count_is_checked_and_named(self) -> None:
        [error] = misplaced([report_of({1: self.ALL, 2: self.HALF, 4: self.ALL})], [FULL])
        assert error.message.startswith("threads 2: 50 % of the multiply-adds run in a delegate (1 of 2 ops), delegate>=100% was")
        assert error.hint and error.exit_code == 3

    def test_what_is_true_of_several_thread_counts_is_told_once(self) -> None:
        none = ops(("CONV_2D", "C", False, 100, "why"))
        told = [one.message for one in misplaced([report_of({1: self.HALF, 2: none, 4: self.HALF})], [FULL])]
        assert [text.partition(" of the")[0] for text in told] == ["threads 1, 4: 50 %", "threads 2: 0 %"]

    def test_boards_are_named_where_there_are_several(self) -> None:
        both = [report_of({1: self.ALL, 2: self.HALF}, "pi"), report_of({1: self.HALF}, "jetson")]
        told = [one.message for one in misplaced(both, [FULL, Expectation("delegate", 0.5)])]
        assert [text.partition(" of the")[0] for text in told] == ["pi: threads 2: 50 %", "jetson: 50 %"]
