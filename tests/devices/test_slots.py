"""Slots against a plain list: any order of deploys and rollbacks, and what is kept."""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright.devices import slots
from edgewright.devices.programs import packed


class Board:
    """A folder with slots, filled by the functions that run on a board."""

    def __init__(self, folder):
        self.folder = str(folder)
        self.home = Path(folder, "models", "m")
        self.marks = 0

    def entry(self, action):
        self.marks += 1
        return {"mark": str(self.marks), "action": action}

    def deploy(self, keep):
        begun = slots.begin(self.folder, "m", f"{self.marks:08d}")
        data = begun["slot"].encode()
        Path(begun["path"], "f").write_bytes(data)
        record = {"files": {"f": hashlib.sha256(data).hexdigest()}, "runtime": "r"}
        return slots.commit(self.folder, "m", begun["slot"], record, self.entry("deploy"), keep)

    def rollback(self):
        found = slots.target(self.folder, "m", None)
        return slots.switch(self.folder, "m", found["record"]["slot"], self.entry("rollback"))

    def renew(self):
        begun = slots.begin(self.folder, "m", "0" * 8)
        data = str(self.marks).encode()
        Path(begun["path"], "g").write_bytes(data)
        now = begun["current"]
        record = {"files": {**now["files"], "g": hashlib.sha256(data).hexdigest()}}
        return slots.renew(self.folder, "m", now["slot"], begun["slot"], "g", record, self.entry("verify"))

    @property
    def current(self):
        return (self.home / "current" / "f").read_text()

    @property
    def there(self):
        return sorted(path.name for path in (self.home / "slots").iterdir())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["deploy", "rollback", "renew"]), max_size=12), st.integers(1, 4))
def test_any_order_of_deploys_and_rollbacks(steps, keep):
    with tempfile.TemporaryDirectory() as folder:
        board, ran, names = Board(folder), [], []
        for step in steps:
            if step == "deploy":
                slot = board.deploy(keep)["slot"]
                assert slot not in names  # a number never comes twice
                names.append(slot)
                ran.append(slot)
                assert len(board.there) <= keep
                if keep > 1 and len(ran) > 1:
                    assert ran[-2] in board.there  # what a rollback goes to
            elif step == "renew":
                if not ran:
                    continue
                told = str(board.marks)
                assert board.renew()["slot"] == ran[-1]
                assert (board.home / "current" / "g").read_text() == told
            else:
                earlier = [slot for slot in ran[:-1] if slot in board.there]
                if not earlier:
                    with pytest.raises(slots.Refused):
                        board.rollback()
                    continue
                assert board.rollback()["slot"] == earlier[-1]
                ran = ran[: ran.index(earlier[-1]) + 1]
            assert board.current == ran[-1]
            assert ran[-1] in board.there
        history = [entry["slot"] for entry in slots.history(board.home)]
        assert history[-1:] == ran[-1:]


def test_files_that_are_not_what_the_record_says_are_left_out(tmp_path):
    board = Board(tmp_path)
    board.deploy(3)
    board.renew()
    assert sorted(slots.running(board.home)["files"]) == ["f", "g"]
    (board.home / "current" / "g").write_text("changed")
    assert sorted(slots.running(board.home)["files"]) == ["f"]
    (board.home / "current" / "f").unlink()
    assert slots.running(board.home)["files"] == {}


def test_changed_file_is_no_slot(tmp_path):
    board = Board(tmp_path)
    first = board.deploy(3)["slot"]
    begun = slots.begin(board.folder, "m", "0" * 8)
    Path(begun["path"], "f").write_bytes(b"changed on its way")
    record = {"files": {"f": hashlib.sha256(b"as it was").hexdigest()}}
    with pytest.raises(slots.Refused, match=r"f has sha256 .* there, expected is"):
        slots.commit(board.folder, "m", begun["slot"], record, board.entry("deploy"), 3)
    with pytest.raises(slots.Refused, match="it is missing"):
        slots.commit(board.folder, "m", begun["slot"], {"files": {"g": "0"}}, board.entry("deploy"), 3)
    assert (board.current, board.there) == (first, [first])


def test_answers_are_one_line_of_json_and_errors_too(tmp_path):
    def ask(**request):
        done = subprocess.run(
            [sys.executable, "-c", packed("slots"), json.dumps(request)], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.stdout.count("\n") == 1, done.stderr
        return done.returncode, json.loads(done.stdout)

    code, found = ask(verb="survey", folder=str(tmp_path / "not" / "there"))
    assert (code, found["python"]) == (0, list(sys.version_info[:3]))
    assert found["used_bytes"] == 0
    code, found = ask(verb="target", folder=str(tmp_path), name="x", to=None)
    assert (code, found["error"]) == (1, "no model 'x' is deployed there")
    (tmp_path / "models").write_text("no folder")
    code, found = ask(verb="begin", folder=str(tmp_path), name="x", sha="0")
    assert code == 1
    assert "models" in found["error"]
