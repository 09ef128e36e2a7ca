"""Runs that are killed: what perf/kill_compress.py shows with many kills, here with three."""

import importlib.util
import json
import signal
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "perf" / "kill_compress.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("kill_compress", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_runs_lose_nothing(script, tmp_path):
    outcome = script.kill_many(tmp_path, kills=3, seed=1, every=3)
    assert outcome.failures == [], script.table(outcome)
    assert [kill.sent for kill in outcome.kills] == ["SIGKILL", "SIGKILL", "SIGINT"]
    assert [kill.code for kill in outcome.kills][:2] == [-signal.SIGKILL] * 2
    assert any(kill.after for kill in outcome.kills), "no kill came late enough for a step to be done"


def test_the_checks_see_what_they_are_for(script, tmp_path):
    place = script.Place(tmp_path / "place")
    entry = place.cache / "entries" / "ab" / "ab12"
    entry.mkdir(parents=True)
    (entry / "model").write_bytes(b"whole")
    (entry / "entry.json").write_text(json.dumps({"files": {"model": script.digest(entry / "model")}}))
    before = place.entries()
    assert script.wrong_entries(before, place) == []
    (entry / "model").write_bytes(b"other")
    assert script.wrong_entries(before, place) == ["the finished step ab12 has changed", "the step ab12 is not whole"]
    (entry / "model").unlink()
    (entry / "entry.json").unlink()
    assert [text.partition(":")[0] for text in script.wrong_entries({}, place)] == ["the step ab12 has no record"]
    entry.rmdir()
    assert script.wrong_entries(before, place) == ["the finished step ab12 is gone"]

    place.out.mkdir()
    for name, text in {"m.tflite": "right", "report.html": "<html></html>\n", "report.json": "{}\n", "report.md": "x\n"}.items():
        (place.out / name).write_text(text)
    truth = place.digests()
    assert script.wrong_files(place, truth) == []
    (place.out / ".edgewright-1-x").mkdir()
    assert script.wrong_files(place, truth) == [] and place.hidden() == [".edgewright-1-x"]
    for name, text in {"m.tflite": "wrong", "report.html": "<html>", "report.json": "{", "report.md": "x", "m.xml": ""}.items():
        (place.out / name).write_text(text)
    assert [text.split()[0] for text in script.wrong_files(place, truth)] == [
        "m.tflite", "m.xml", "report.html", "report.json", "report.md",
    ]  # fmt: skip


def test_processes_are_found_by_their_mark(script, monkeypatch):
    import subprocess

    assert script.marked("nobody") == []
    monkeypatch.setenv(script.MARK, "test-mark")
    code = "import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=-1, start_new_session=True)"
    with subprocess.Popen([sys.executable, "-c", f"{code}; print(p.pid, flush=True); input()"], stdin=-1, stdout=-1) as parent:
        child = int(parent.stdout.readline())
        assert sorted(script.marked("test-mark")) == sorted([parent.pid, child])
        parent.kill()
    assert script.orphans("test-mark") == [], "its pipe is closed, it has ended"
