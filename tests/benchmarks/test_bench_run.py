"""The verb `bench` on boards: what it prints, saves and keeps, with expectations, estimates, several boards and failures."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from edgewright.benchmarks.bench import BenchTarget
from edgewright.benchmarks.bench_run import _with_estimate, measure, misplaced
from edgewright.benchmarks.bench_settings import BenchSettings
from edgewright.benchmarks.history import History
from edgewright.benchmarks.placement import Expectation
from edgewright.devices.device import open_device
from edgewright.errors import DeviceError, UsageError
from edgewright.report import find_metric
from edgewright.testing_models import plus_one_tflite
from edgewright.worker import Limits
from tests.runtime import placed_models

pytest_plugins = ("boards_here",)
pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")  # of asyncssh, as in tests/devices

QUICK = ("--duration", "0.05", "--repeats", "1", "--idle-gaps", "1", "--meter", "none")
ONCE = BenchSettings(duration_s=0.05, repeats=1, idle_gaps=0, meter="none")


@pytest.fixture
def model(place):
    pytest.importorskip("ai_edge_litert")
    return plus_one_tflite(place / "plus_one.tflite")


@pytest.fixture
def boards(place, monkeypatch):
    """Boards of the user's own: `good` and `other` answer, nobody listens at `gone`; an own history."""
    monkeypatch.setenv("XDG_DATA_HOME", str(place / "data"))
    folder = place / "config" / "edgewright" / "boards"
    folder.mkdir(parents=True)
    for name in ("good", "other"):
        text = f'title = "The {name} one"\ntransport = "local"\npython = "{sys.executable}"\nfolder = "{place / name}"\n'
        (folder / f"{name}.toml").write_text(text)
    gone = 'title = "Gone"\ntransport = "ssh"\naddress = "nobody@127.0.0.1:9"\n'
    (folder / "gone.toml").write_text(gone)
    return folder


def kept():
    """Devices of the reports in the history, oldest first."""
    with History() as history:
        return [one.device for series in history.series() for one in history.query(series.model, series.device)]


# ---- one board ---------------------------------------------------------------------------------------------------------


def test_text_json_files_and_history(boards, model, here, place):
    code, out, err = here("bench", model, "--device", "good", *QUICK, "--out", place / "report")
    assert code == 0, err
    assert "The good one (good, local)" in out and "latency p50" in out and str(place / "report" / "bench.json") in out
    saved = json.loads((place / "report" / "bench.json").read_text())
    assert saved["settings"]["device"]["name"] == "good"
    code, out, _ = here("bench", model, "--device", "good", *QUICK, "--json", "--no-history")
    data = json.loads(out)
    assert code == 0 and data["kind"] == "bench" and data["settings"]["device"]["title"] == "The good one"
    assert "failed" not in data and data["options"]["device"]["value"] == ["good"]
    assert kept() == ["good"]


def test_settings_file_names_the_board(boards, model, here, place):
    (place / "edgewright.toml").write_text('[bench]\ndevice = "good"\n')
    code, out, err = here("bench", model, *QUICK, "--json")
    assert code == 0, err
    assert json.loads(out)["settings"]["device"]["name"] == "good"
    assert kept() == ["good"]


def test_this_machine_has_no_board(boards, model, here):
    code, out, err = here("bench", model, *QUICK, "--json")
    assert code == 0, err
    assert "device" not in json.loads(out)["settings"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "nowhere"), "there is no board 'nowhere'"),
        (("--device", "good", "--device", "nowhere"), "there is no board 'nowhere'"),
        (("--device", "raspberry_pi_5"), "says nothing about where the board is"),
        (("--device", "good", "--meter", "nothing"), "there is no meter 'nothing'"),
        (("--device", "good", "--meter", "trace"), "the meter trace needs a file"),
        (("--device", "good", "--meter", "rapl,hwmon"), "names several meters, one is needed"),
        (("--wheels", "wheels"), "--wheels wheels is for a board, none is named"),
        (("--wait", "5"), "--wait 5.0 is for a board, none is named"),
        (("--meter", "nothing"), "there is no meter 'nothing'"),
        (("--device", "good", "--memory-limit", "2G"), "--memory-limit is for processes here"),
        (("--device", "good", "--expect", "95%"), "95%"),
        (("--device", "good", "--threads", "0"), "--threads 0"),
    ],
)
def test_mistakes(boards, model, here, place, arguments, message):
    code, out, err = here("bench", model, *QUICK, "--out", place / "report", *arguments)
    assert code == 2 and message in err and out == ""
    assert not (place / "good").exists() and not (place / "report").exists() and not (place / "data").exists()


def test_estimate_is_typed_and_shown_as_one(boards, here, place):
    model = placed_models.heavy(place / "heavy.tflite")
    code, out, err = here("bench", model, "--device", "good", *QUICK, "--estimate-energy", "--out", place / "report")
    assert code == 0, err
    data = json.loads((place / "report" / "bench.json").read_text())
    [metric] = [one for one in data["metrics"] if one["name"] == "energy_per_inference_estimate"]
    assert metric["origin"] == "estimated" and metric["value"] > 0
    told = data["details"]["energy_estimate"]
    assert told["macs"] == data["details"]["placement"]["macs"] > 0 and told["source"]
    assert told["bytes_moved"] >= model.stat().st_size
    assert "estimate" in out + err
    assert not [one for one in data["metrics"] if one["name"] == "energy_per_inference" and one["value"]]


@pytest.mark.parametrize(
    ("precision", "kinds", "value"),
    [
        ("int8", [], True),
        ("dynamic int8", [], True),
        ("mixed", ["float32", "int8"], True),
        ("bf16", ["bf16"], False),
        ("int16x8", [], False),
        ("unknown", [], False),
    ],
)
def test_a_precision_without_published_energies_is_no_estimate(place, precision, kinds, value):
    reports, _ = measure(BenchTarget(plus_one_tflite(place / "one.tflite")), ONCE)
    execution = {**reports[0].model["execution"], "precision": precision, "kinds": kinds}
    found = _with_estimate(replace(reports[0], model={**reports[0].model, "execution": execution}))
    metric = find_metric(found.metrics, "energy_per_inference_estimate")
    assert (metric.value is not None) == value and (value or f"has no figure for {precision}" in metric.why_absent)
    assert any("activations" in text for text in found.details["energy_estimate"]["leaves_out"])


def test_estimate_of_several_thread_counts(boards, here, place):
    model = placed_models.heavy(place / "heavy.tflite")
    code, out, err = here("bench", model, "--device", "good", *QUICK, "--threads", "1,2", "--estimate-energy", "--json")
    assert code == 0, err
    data = json.loads(out)
    assert len([one for one in data["metrics"] if one["name"] == "energy_per_inference_estimate"]) == 1
    code, out, err = here("bench", model, "--device", "good", *QUICK, "--threads", "1,2", "--estimate-energy")
    assert code == 0 and "estimate" in out + err, err


# ---- expectations ------------------------------------------------------------------------------------------------------


def test_expectation_that_fails_is_told_and_the_report_is_kept(boards, here, place):
    model = placed_models.dynamic(place / "m.tflite")
    arguments = ("bench", model, "--device", "good", *QUICK, "--out", place / "report")
    assert here(*arguments, "--expect", "delegate>=89%")[0] == 0
    (place / "report" / "bench.json").unlink()
    code, out, err = here(*arguments, "--expect", "delegate>=95%", "--expect", "NPU>=90%")
    assert code == 3
    assert "89.88 % of the multiply-adds run in a delegate (2 of 3 ops), delegate>=95% was expected" in err
    assert "1 DEPTHWISE_CONV_2D, 10.11 %: 'depthwise'" in err and "XNNPACK does not do that" in err
    assert "NPU>=90% was expected" in err  # the others are told, too
    assert "latency p50" in out
    assert json.loads((place / "report" / "bench.json").read_text())["details"]["placement"]["macs"] == 1458176
    assert kept() == ["good", "good"]
    code, out, err = here(*arguments, "--expect", "delegate>=95%", "--json")
    assert code == 3 and json.loads(out)["kind"] == "bench" and "delegate>=95% was expected" in err


def test_expectation_names_the_board_of_several(boards, here, place):
    model = placed_models.dynamic(place / "m.tflite")
    code, _, err = here("bench", model, "-d", "good", "-d", "other", *QUICK, "--expect", "delegate>=95%")
    assert code == 3 and "good: 89.88 %" in err and "other: 89.88 %" in err


def test_expectation_of_several_thread_counts(boards, place):
    model = placed_models.dynamic(place / "m.tflite")
    reports, failed = measure(BenchTarget(model, threads=(1, 2)), ONCE, boards=["good"])
    assert failed == {} and misplaced(reports, [Expectation("delegate", 0.89)]) == []
    [error] = misplaced(reports, [Expectation("delegate", 0.95)])
    assert error.message.startswith("threads 1, 2: 89.88 %")


# ---- several boards ----------------------------------------------------------------------------------------------------


def test_several_boards_side_by_side(boards, model, here, place):
    code, out, err = here("bench", model, "-d", "good", "-d", "other", "-d", "good", *QUICK, "--json", "--out", place / "report")
    assert code == 0, err
    data = json.loads(out)
    assert [one["settings"]["device"]["name"] for one in data["reports"]] == ["good", "other"] and "failed" not in data
    assert [
        one["settings"]["device"]["name"] for one in json.loads((place / "report" / "bench.json").read_text())["reports"]
    ] == [*("good", "other")]
    assert sorted(kept()) == ["good", "other"]


@pytest.mark.parametrize("order", [("good", "gone", "other"), ("gone", "good", "other")])
def test_a_board_that_fails_takes_nothing_from_the_others(boards, model, here, place, order):
    flags = [word for name in order for word in ("--device", name)]
    code, out, err = here("bench", model, *flags, *QUICK, "--out", place / "report")
    assert code == DeviceError.exit_code and "gone" in err and "127.0.0.1:9" in err
    assert "The good one" in out and "The other one" in out
    saved = json.loads((place / "report" / "bench.json").read_text())["reports"]
    assert [one["settings"]["device"]["name"] for one in saved] == ["good", "other"]
    assert sorted(kept()) == ["good", "other"]


def test_a_board_that_fails_in_json(boards, model, here, place):
    code, out, err = here("bench", model, "-d", "good", "-d", "gone", *QUICK, "--json")
    data = json.loads(out)
    assert code == DeviceError.exit_code and "error: " in err
    assert [one["settings"]["device"]["name"] for one in data["reports"]] == ["good"]
    assert list(data["failed"]) == ["gone"]
    assert data["failed"]["gone"]["type"] == "DeviceError" and data["failed"]["gone"]["exit_code"] == code
    assert "127.0.0.1:9" in data["failed"]["gone"]["message"]


def test_boards_that_all_fail(boards, model, here, place):
    (boards / "away.toml").write_text('title = "Away"\ntransport = "ssh"\naddress = "nobody@127.0.0.1:7"\n')
    code, out, err = here("bench", model, "-d", "gone", "-d", "away", *QUICK, "--out", place / "report", "--json")
    assert code == DeviceError.exit_code and "127.0.0.1:9" in err and "127.0.0.1:7" in err
    assert json.loads(out)["error"]["type"] == "DeviceError"
    assert not (place / "report").exists() and not (place / "data").exists()


def test_reports_come_as_boards_finish(boards, model):
    """Whoever ends it meanwhile keeps what is there."""
    seen = []

    def finished(report):
        seen.append(report.settings["device"]["name"])
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(BenchTarget(model), ONCE, boards=["good", "other"], finished=finished)
    assert seen == ["good"]


def test_limits_of_a_board(boards, model):
    with pytest.raises(UsageError, match="--memory-limit"):
        measure(BenchTarget(model), replace(ONCE, limits=Limits(memory_bytes=1 << 30)), boards=["good"])
    with pytest.raises(DeviceError, match=r"good.* 0\.2 s"):
        measure(BenchTarget(model), replace(ONCE, idle_gaps=3, limits=Limits(timeout_s=0.2)), boards=["good"])


# ---- what breaks meanwhile ---------------------------------------------------------------------------------------------


def test_board_that_goes_away_leaves_nothing_half(boards, new_sshd, model, here, place):
    server = new_sshd()
    known = f'[options]\nidentity_file = "{server.key}"\nknown_hosts = "{server.known_hosts}"\n'
    (boards / "pi.toml").write_text(
        f'title = "Pi"\ntransport = "ssh"\naddress = "{server.address}"\npython = "{sys.executable}"\n'
        f'folder = "{place / "pi"}"\n{known}'
    )
    mine = f"edgewright.benchmarks bench {place / 'pi'}"

    def cut():
        until = time.monotonic() + 60
        while time.monotonic() < until and not running(mine):
            time.sleep(0.02)
        server.stop()

    cutter = threading.Thread(target=cut)
    cutter.start()
    # Half a minute of gaps: it is cut in the middle.
    code, out, err = here(
        *("bench", model, "--device", "pi", "--duration", "0.05", "--repeats", "1", "--idle-gaps", "300", "--meter", "none"),
        *("--out", place / "report"),
    )
    cutter.join()
    for pid in running(mine):  # a board that is really gone has none
        os.kill(pid, signal.SIGKILL)
    assert code == DeviceError.exit_code and out == ""
    assert "pi" in err and server.address in err
    assert not (place / "report").exists() and not (place / "data").exists()


def test_interrupted_bench_leaves_nothing_on_the_board(boards, ssh_board, model, place):
    """Ctrl-C while the board works: its process ends, its folder goes, the next one has the board at once."""
    known = "".join(f'{key} = "{value}"\n' for key, value in ssh_board.options.items())
    (boards / "pi.toml").write_text(
        f'title = "Pi"\ntransport = "ssh"\naddress = "{ssh_board.address}"\npython = "{sys.executable}"\n'
        f'folder = "{place / "pi"}"\n[options]\n{known}'
    )
    mine = f"edgewright.benchmarks bench {place / 'pi'}"
    words = ["-m", "edgewright.cli", "bench", str(model), "-d", "pi", *QUICK[:-4], "--idle-gaps", "300", "--meter", "none"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 60
        while not running(mine):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and out == "" and "cancelled" in err and "Traceback" not in err
    until = time.monotonic() + 30
    while running(mine):
        assert time.monotonic() < until
        time.sleep(0.02)
    with open_device(ssh_board, what="looking", wait_s=30):
        assert list((place / "pi" / "tmp").glob("*")) == []
    assert not (place / "data").exists()


def running(text):
    """Processes of this machine whose command line holds a text."""
    listed = subprocess.run(["ps", "-ewwo", "pid=,args="], capture_output=True, text=True, check=True, timeout=60).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if text in line]


# ---- compared, and measured again --------------------------------------------------------------------------------------


def test_compare_measures_again_on_the_board(boards, model, here, place, monkeypatch):
    """B's report says that it is a thousand times as slow; both are the same file, and measured again there they are equal."""
    monkeypatch.setattr("edgewright.benchmarks.gate.GATE_PROCESSES", 3)
    for name in ("a", "b"):
        code, out, err = here("bench", model, "--device", "good", *QUICK, "--repeats", "3", "--json")
        assert code == 0, err
        data = json.loads(out)
        if name == "b":
            for process in data["details"]["processes"]:
                process["p50_ms"] *= 1000
        Path(f"{name}.json").write_text(json.dumps(data))
    arguments = ("compare", "a.json", "b.json", "--max-regression", "p50=1000%", "--allow", "throttled", "--json")
    assert here(*arguments, "--no-rerun")[0] == 5
    code, out, err = here(*arguments)
    data = json.loads(out)
    assert code == 0 and (data["verdict"], data["before"]["verdict"]) == ("kept", "regressed"), err
    assert len(list((place / "good" / "runtime").iterdir())) >= 1
    (boards / "good.toml").write_text('transport = "ssh"\naddress = "nobody@127.0.0.1:9"\n')
    code, _, err = here(*arguments)
    assert code == 5 and "not measured again: " in err and "127.0.0.1:9" in err
    (boards / "good.toml").unlink()
    code, _, err = here(*arguments)
    assert code == 5 and "not measured again: there is no board 'good'" in err
