"""The verbs `compare` and `history`: what they print, their exit codes, and that their help needs no NumPy."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import pytest
from benchmarks.compare_example import around, measured_twice, report

from edgewright import cli
from edgewright.benchmarks.compare_commands import compare, history
from edgewright.benchmarks.history import History, history_file


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def ours(here, monkeypatch):
    """The command line, with both verbs if it does not have them by itself."""
    known = {command.callback for command in cli.app.registered_commands}
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    for verb in (compare, history):
        if verb not in known:
            cli.app.command()(verb)
    return here


@pytest.fixture
def saved(place):
    """Writes reports into the working folder."""

    def save(**reports):
        for name, data in reports.items():
            (place / f"{name}.json").write_text(json.dumps(data))

    return save


def test_comparing_alone_never_fails(ours, saved):
    saved(a=report(around(2.0)), b=report(around(4.0, seed=1), settings__fingerprint="e" * 16))
    code, out, err = ours("compare", "a.json", "b.json")
    assert code == 0 and "latency p50" in out and "+100 %" in out
    assert "warning: the machine is" in err


def test_a_regression_is_exit_code_five(ours, saved):
    saved(a=report(around(2.0)), b=report(around(2.3, seed=1)))
    code, out, err = ours("compare", "a.json", "b.json", "--max-regression", "p50=5%", "--max-regression", "size=1%")
    assert code == 5 and "regressed" in out and "within" in out
    assert "error: latency p50 rose by 1" in err and "5 % is allowed" in err
    assert "not measured again: models/net.tflite cannot be measured again: it cannot be read" in err
    _, _, err = ours("compare", "a.json", "b.json", "--max-regression", "p50=5%", "--no-rerun")
    assert "not measured again" not in err and "without --no-rerun both files are measured again" in err
    code, out, err = ours("compare", "a.json", "b.json", "--max-regression", "p50=20%")
    assert code == 0 and "error" not in err
    code, out, _ = ours("compare", "a.json", "b.json", "--max-regression", "p50", "--json")
    data = json.loads(out)
    assert code == 5 and data["verdict"] == "regressed" and data["changes"][0]["verdict"] == "regressed"


def test_undecided_is_a_warning_or_an_error(ours, saved):
    saved(a=report(around(2.0, 3, 0.1)), b=report(around(2.1, 3, 0.1, seed=1)))
    code, out, err = ours("compare", "a.json", "b.json", "--max-regression", "p50")
    assert code == 0 and "undecided" in out and "more processes of each file would decide" in err and "--repeats" in err
    code, _, err = ours("compare", "a.json", "b.json", "--max-regression", "p50", "--strict")
    assert code == 5 and "error: undecided: latency p50" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("b.json", "--max-regression", "p50"), "the device is pi5 in the first and pi4 in the second"),
        (("b.json", "--max-regression", "p50=5%", "--max-regression", "p50=4%"), "two limits of p50"),
        (("b.json", "--max-regression", "p50=5"), "no limit in per cent"),
        (("c.json",), "c.json cannot be read"),
    ],
)
def test_what_cannot_be_compared(ours, saved, arguments, message):
    saved(a=report(around(2.0)), b=report(around(2.0, seed=1), settings__device="pi4"))
    code, out, err = ours("compare", "a.json", *arguments)
    assert code == 2 and message in err and out == ""
    code, out, err = ours("compare", "a.json", *arguments, "--json")
    assert code == 2 and message in json.loads(out)["error"]["message"]


def test_allowed_differences(ours, saved):
    changes = {"settings__device": "pi4", "model__library": "ai-edge-litert 2.4.0"}
    saved(a=report(around(2.0)), b=report(around(2.0, seed=1), **changes))
    assert ours("compare", "a.json", "b.json", "--max-regression", "p50,p90=6%", "--allow", "device,library")[0] == 0
    code, _, err = ours("compare", "a.json", "b.json", "--max-regression", "p50", "--allow", "library")
    assert code == 2 and "--allow device" in err


def test_an_alarm_that_cannot_be_checked_stands(ours, saved):
    saved(a=report(around(2.0)), b=report(around(2.3, seed=1)))
    code, _, err = ours("compare", "a.json", "b.json", "--max-regression", "p50")
    assert code == 5 and "not measured again: models/net.tflite cannot be measured again: it cannot be read" in err
    assert "hint:" not in err


def test_rerun_clears_a_false_alarm(ours, saved, tmp_path):
    """B's report says that it is a thousand times as slow; both are the same file, and measured again they are equal."""
    a, b = measured_twice(tmp_path, repeats=3)
    for process in b["details"]["processes"]:
        process["p50_ms"] *= 1000
    saved(a=a, b=b)
    arguments = ("compare", "a.json", "b.json", "--max-regression", "p50=1000%", "--allow", "throttled", "--json")
    assert ours(*arguments, "--no-rerun")[0] == 5
    code, out, _ = ours(*arguments)
    data = json.loads(out)
    p50 = next(one for one in data["changes"] if one["figure"] == "p50")
    assert code == 0 and data["verdict"] == "kept" and p50["processes"] == [15, 15]
    assert data["before"]["verdict"] == "regressed"


@pytest.mark.slow
def test_rerun_decides_what_was_undecided(ours, saved, tmp_path):
    """Two processes each do not tell whether p50 rose by less than a tenfold; more of them do."""
    a, b = measured_twice(tmp_path, repeats=2)
    b["details"]["processes"][1]["p50_ms"] *= 20
    saved(a=a, b=b)
    arguments = ("compare", "a.json", "b.json", "--max-regression", "p50=1000%", "--allow", "throttled", "--json")
    code, out, err = ours(*arguments, "--no-rerun")
    assert code == 0 and json.loads(out)["verdict"] == "undecided" and "undecided: latency p50" in err
    code, out, _ = ours(*arguments)
    data = json.loads(out)
    assert code == 0 and data["verdict"] == "kept" and data["before"]["verdict"] == "undecided"


# ---- history ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept():
    with History() as history:
        for n, level in enumerate((2.0, 2.01, 2.5)):
            history.add(report(around(level, seed=n)), at=1.79e9 + 3600 * n)
        history.add(report(around(9.0), settings__device="pi4"), at=1.78e9)


def test_no_history_yet(ours):
    code, _, err = ours("history")
    assert code == 2 and "there is no history yet" in err and not history_file().exists()


def test_history_lists_and_shows(ours, kept, place):
    code, out, _ = ours("history")
    assert code == 0 and [line.split()[:4] for line in out.splitlines()[2:]] == [
        ["net.tflite", "pi5", "litert", "3"],
        ["net.tflite", "pi4", "litert", "1"],
    ]
    code, out, _ = ours("history", "net", "pi5", "--metric", "p50", "--plot", "out.svg")
    assert code == 0 and "regressed" in out and "pi4" not in out and "latency p50: " in out
    assert ElementTree.parse(place / "out.svg").getroot().tag.endswith("svg")
    code, out, _ = ours("history", "net", "--json", "--limit", "2", "--metric", "p50")
    data = json.loads(out)
    assert [point["regressed"] for point in data["points"]] == [False, True]
    assert data["points"][0]["change"] is not None, "the point before is known although it is not shown"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("foo",), "the history has no measurement of foo"),
        (("net", "jetson"), "no measurement of net on jetson"),
        (("net", "--metric", "p95"), "no figure 'p95'"),
        (("--plot", "x.svg"), "--plot needs a model"),
    ],
)
def test_history_that_is_not_there(ours, kept, arguments, message):
    code, _, err = ours("history", *arguments)
    assert code == 2 and message in err


def test_a_damaged_history_can_be_set_aside(ours, kept):
    file = history_file()
    file.write_bytes(b"damaged" * 1000)
    code, _, err = ours("history")
    assert code == 1 and "is damaged" in err and "edgewright history --set-aside" in err
    code, out, _ = ours("history", "--set-aside")
    assert code == 0 and "history.sqlite.old-1" in out
    assert file.with_name("history.sqlite.old-1").read_bytes() == b"damaged" * 1000
    assert ours("history")[0] == 2


def test_verbs_are_declared_without_numpy():
    code = (
        "import sys; import edgewright.benchmarks.compare_commands; sys.exit('numpy' in sys.modules or 'sqlite3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
