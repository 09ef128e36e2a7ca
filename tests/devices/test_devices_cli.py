"""The verbs devices and doctor as people and scripts use them."""

import json
import os
import platform
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from edgewright.devices.device import open_device

BOARD_KEYS = {
    *("name", "title", "architecture", "transport", "address", "python", "folder", "engines", "meters", "governor"),
    *("ram_bytes", "flash_bytes", "options", "file"),
}


@pytest.fixture(autouse=True)
def home(place, monkeypatch):
    """A home of the test's own, which is the local board's too; no editor."""
    found = place / "home"
    found.mkdir()
    monkeypatch.setenv("HOME", str(found))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    return found


@pytest.fixture
def folder(place):
    return place / "config" / "edgewright" / "boards"


def ask(here, *arguments, code=0):
    """The JSON that a call answers with."""
    found, out, err = here(*arguments, "--json")
    assert found == code, err
    return json.loads(out)


def editor(place, monkeypatch, script):
    """Makes $EDITOR a program that changes the file it is given."""
    file = place / "editor"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("EDITOR", f"{file} --wait")


# --- list and show -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["devices", "doctor"])
def test_help(here, verb):
    code, out, err = here(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: edgewright {verb}")
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("verb", ["devices", "doctor"])
def test_help_loads_nothing_heavy(verb):
    code = (
        f"import sys; sys.argv = ['edgewright', '{verb}', '--help']\n"
        "from edgewright.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    heavy = {'numpy', 'asyncssh', 'edgewright.devices.device', 'edgewright.devices.transport'} & set(sys.modules)\n"
        "    print(heavy or '', file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_list(here, folder):
    assert here("devices", "add", "pi5", "--profile", "raspberry_pi_5", "--address", "pi@192.168.1.20")[0] == 0
    (folder / "broken.toml").write_text("engine = []\n")
    (folder / "local.toml").write_text('transport = "ssh"\n')
    code, out, err = here("devices")
    assert code == 0 and out == here("devices", "list")[1]
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert re.search(r"Raspberry Pi 5 +ssh pi@192\.168\.1\.20 +litert, onnxruntime, openvino +pmic, hwmon +own", rows["pi5"])
    assert re.search(r"ssh, no address .* shipped", rows["raspberry_pi_5"])
    assert re.search(r"adb, the only device .* shipped", rows["generic_android"])
    assert "cannot be read" in rows["broken"] and "built in" in out
    assert "has 'engine', which profiles do not have" in err and "'local' is always this machine" in err

    answer = ask(here, "devices")
    boards = {board["name"]: board for board in answer["boards"]}
    assert set(boards["pi5"]) == BOARD_KEYS | {"origin", "has_address"}
    assert [(name, boards[name]["origin"], boards[name]["has_address"]) for name in ("local", "pi5", "imx8mp")] == [
        *(("local", "built in", True), ("pi5", "own", True), ("imx8mp", "shipped", False)),
    ]
    assert [one["name"] for one in answer["invalid"]] == ["broken", "local"]
    assert "did you mean engines?" in answer["invalid"][0]["error"]["hint"]


def test_show(here, folder):
    here("devices", "add", "pi5", "--profile", "raspberry_pi_5", "--address", "pi@h", "--set", "limits.ram=8 GiB")
    code, out, _ = here("devices", "show", "pi5")
    assert code == 0
    assert re.search(r"^memory +8 GiB", out, re.M) and re.search(r"^governor +performance", out, re.M)
    assert (folder / "pi5.toml").read_text().strip() in out
    answer = ask(here, "devices", "show", "raspberry_pi_5")
    assert "Cortex-A76" in answer["text"] and set(answer["board"]) == BOARD_KEYS
    assert ask(here, "devices", "show", "local")["text"] == ""


# --- add, edit, remove --------------------------------------------------------------------------------------------------


def test_add_edit_and_remove(here, folder):
    added = ask(
        here, "devices", "add", "pi5", "--profile", "raspberry_pi_5", "--address", "pi@192.168.1.20:2222",
        "--python", "/opt/py/bin/python3", "--set", "options.identity_file=~/.ssh/id", "--set", "limits.ram=8 GiB",
    )  # fmt: skip
    assert added["board"]["options"] == {"identity_file": "~/.ssh/id"} and added["board"]["ram_bytes"] == 8 << 30
    assert (folder / "pi5.toml").read_text() == added["text"]
    with (folder / "pi5.toml").open("a") as file:
        file.write("# on the desk\n")
    changes = ("--address", "pi@other", "--set", "meters=", "--set", "limits.flash=1 GB", "--unset", "python")
    changed = ask(here, "devices", "edit", "pi5", *changes)
    assert changed["changed"] and changed["comments_kept"] and "# on the desk" in changed["text"]
    board = ask(here, "devices", "show", "pi5")["board"]
    assert (board["address"], board["python"], board["meters"], board["flash_bytes"]) == ("pi@other", "python3", [], 10**9)
    assert ask(here, "devices", "remove", "pi5") == {"schema": 1, "removed": "pi5", "file": str(folder / "pi5.toml")}
    assert not list(folder.iterdir())


def test_a_file_that_had_to_be_written_anew_is_told(here, folder):
    folder.mkdir(parents=True)
    (folder / "a.toml").write_text('extends = "local"\nengines = [\n  "litert",  # mine\n]\n')
    code, _, err = here("devices", "edit", "a", "--set", "engines=openvino")
    assert code == 0 and "without its comments" in err
    assert (folder / "a.toml").read_text() == 'extends = "local"\nengines = ["openvino"]\n'


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["add", "x"], "a new board needs the profile", "--profile"),
        (["add", "x", "--profile", "raspbery_pi_4"], "no profile 'raspbery_pi_4'", "did you mean raspberry_pi_4?"),
        (["add", "x", "--profile", "raspberry_pi_4"], "nothing says where the board 'x' is", "--address USER@HOST"),
        (["add", "x", "--profile", "local", "--set", "extends=imx8mp"], "both given", ""),
        (["add", "x", "--profile", "local", "--python", "a", "--set", "python=b"], "--python and --set", ""),
        (["add", "local", "--profile", "local"], "always this machine", ""),
        (["add", "a/b", "--profile", "local"], "no name for a board", "pi5"),
        (["add", "old", "--profile", "local"], "there is a board 'old' already", "devices edit old"),
        (["add", "x", "--profile", "local", "--set", "limits.rma=4 GiB"], "limits.rma", "did you mean limits.ram?"),
        (["add", "x", "--profile", "local", "--unset", "python"], "--unset means nothing to add", "--profile, --address"),
        (["edit", "old", "--set", "limits.ram=4 gigs"], "limits.ram is '4 gigs'", '"4 GiB"'),
        (["edit", "imx8mp", "--set", "title=x"], "is shipped with Edgewright", "--profile imx8mp"),
        (["edit", "nobody", "--set", "title=x"], "no board 'nobody' of your own", "old"),
        (["edit", "old"], "no editor is named", "--set KEY=VALUE"),
        (["edit", "old", "--wheels", "x"], "--wheels means nothing to edit", "--set"),
        (["remove", "nobody"], "no board 'nobody' of your own", ""),
        (["remove"], "remove needs the name of a board", "devices remove NAME"),
        (["list", "pi5"], "list takes no board", "devices show pi5"),
        (["list", "--wait", "3"], "--wait means nothing to list", ""),
        (["show", "nobody"], "there is no board 'nobody'", "known: local, old"),
        (["probe", "imx8mp"], "says nothing about where", "devices add MY_BOARD --profile imx8mp"),
        (["explode"], "'explode'", "--help"),
    ],
)
def test_wrong_calls_change_nothing_and_say_what_to_do(here, folder, arguments, message, hint):
    folder.mkdir(parents=True)
    (folder / "old.toml").write_text('extends = "local"\n')
    code, out, err = here("devices", *arguments)
    assert (code, out) == (2, "")
    assert message in err and hint in err and "Traceback" not in err
    assert [file.name for file in folder.iterdir()] == ["old.toml"]
    assert (folder / "old.toml").read_text() == 'extends = "local"\n'
    answer = ask(here, "devices", *arguments, code=2)
    assert message in answer["error"]["message"] and answer["exit_code"] == 2


def test_settings_files_may_set_options_of_other_actions(here, place):
    (place / "edgewright.toml").write_text("[devices]\nwait = 3\n")
    assert here("devices", "list")[0] == 0


# --- the editor ---------------------------------------------------------------------------------------------------------


def test_edit_opens_the_editor(here, folder, place, monkeypatch):
    here("devices", "add", "a", "--profile", "local")
    editor(place, monkeypatch, 'test "$1" = --wait && echo \'title = "Bench in the lab" # mine\' >> "$2"')
    changed = ask(here, "devices", "edit", "a")
    assert changed["board"]["title"] == "Bench in the lab" and changed["changed"]
    assert (folder / "a.toml").read_text() == 'extends = "local"\ntitle = "Bench in the lab" # mine\n'
    editor(place, monkeypatch, "true")
    assert here("devices", "edit", "a")[1] == "nothing was changed\n"


def test_what_was_written_wrongly_is_kept_beside_the_old_board(here, folder, place, monkeypatch):
    here("devices", "add", "a", "--profile", "local")
    editor(place, monkeypatch, 'echo "titel = 3" >> "$2"')
    code, _, err = here("devices", "edit", "a")
    assert code == 2 and "has 'titel'" in err and "the board stays as it was" in err
    assert "did you mean title?" in err and f"what you wrote is kept in {folder / 'a.rejected'}" in err
    assert (folder / "a.toml").read_text() == 'extends = "local"\n'
    assert (folder / "a.rejected").read_text() == 'extends = "local"\ntitel = 3\n'
    assert {board["name"] for board in ask(here, "devices")["boards"]} >= {"a", "local"} and not ask(here, "devices")["invalid"]


@pytest.mark.parametrize(("script", "words"), [("exit 3", "ended with code 3"), ('rm "$2"', "cannot be used")])
def test_an_editor_that_fails_changes_nothing(here, folder, place, monkeypatch, script, words):
    here("devices", "add", "a", "--profile", "local")
    editor(place, monkeypatch, script)
    code, _, err = here("devices", "edit", "a")
    assert code == 2 and words in err
    assert (folder / "a.toml").read_text() == 'extends = "local"\n'
    monkeypatch.setenv("EDITOR", "no-such-editor")
    code, _, err = here("devices", "edit", "a")
    assert code == 2 and "no-such-editor" in err


def test_a_broken_board_can_be_mended_by_hand(here, folder, place, monkeypatch):
    folder.mkdir(parents=True)
    (folder / "a.toml").write_text("extends = \n")
    code, _, err = here("devices", "edit", "a", "--set", "title=x")
    assert code == 2 and "no valid TOML" in err
    editor(place, monkeypatch, 'echo \'extends = "local"\' > "$2"')
    assert ask(here, "devices", "edit", "a")["board"]["transport"] == "local"


# --- probe and doctor ----------------------------------------------------------------------------------------------------


def test_probe_brings_the_runtime_and_tells_what_the_board_has(here, home):
    here("devices", "add", "bench", "--profile", "local")
    found = ask(here, "devices", "probe", "bench")
    direct = subprocess.run(
        [sys.executable, "-m", "edgewright.runtime", "probe", "--json"], capture_output=True, text=True, check=True
    )
    expected = json.loads(direct.stdout)
    assert found["engines"] == expected["engines"] and found["numpy"] == expected["numpy"]
    assert found["machine"]["architecture"] == platform.machine() and found["machine"]["executable"] == sys.executable
    assert Path(found["runtime"]["folder"], "edgewright", "runtime", "__main__.py").is_file()
    assert found["runtime"]["folder"].startswith(str(home / ".edgewright" / "runtime"))
    meters = {meter["name"]: meter for meter in found["meters"]}
    assert {"rapl", "hwmon", "ina3221", "pmic", "android", "trace", "serial"} <= set(meters)
    assert all(meter["available"] or meter["why"] for meter in meters.values())
    assert abs(found["clock"]["ahead_s"]) <= found["clock"]["unsure_s"]

    code, out, _ = here("devices", "probe", "bench")
    assert code == 0
    assert re.search(rf"^python +{platform.python_version()} .*NumPy {found['numpy']}", out, re.M)
    assert re.search(rf"^litert +{re.escape(found['engines']['litert'])}", out, re.M)
    assert re.search(r"^trace +stands beside the board", out, re.M)
    meters = next(check for check in ask(here, "doctor", "bench")["checks"] if check["name"] == "meters")
    assert meters["state"] in ("ok", "warning"), "with the runtime there, meters are asked"


def test_doctor_of_this_machine(here):
    answer = ask(here, "doctor")
    assert answer["ready"] and answer["board"]["name"] == "local"
    assert [set(check) for check in answer["checks"]] == [{"name", "state", "reason", "todo", "needed"}] * 12
    code, out, err = here("doctor")
    assert (code, err) == (0, "")
    assert out.startswith("local: this machine\n") and re.search(r"^python +ok +\d", out, re.M)
    assert out.splitlines()[-1].startswith("ready")
    assert here("doctor", "local")[1].splitlines()[-1] == out.splitlines()[-1]


def test_doctor_ends_with_code_1_if_something_is_missing(here):
    here("devices", "add", "bare", "--profile", "local", "--python", f"{sys.executable} -S")
    code, out, err = here("doctor", "bare")
    assert (code, err) == (1, "")
    assert re.search(r"^numpy +missing +NumPy is not installed there *$", out, re.M)
    assert "-> bring wheels, 'pip download" in out
    assert out.splitlines()[-1] == "not ready: numpy, engines"
    answer = ask(here, "doctor", "bare", code=1)
    assert not answer["ready"] and [check["name"] for check in answer["checks"] if check["state"] == "missing"] == [
        *("numpy", "engines"),
    ]


def test_doctor_tells_what_is_missing_from_what_was_not_looked_at(here):
    here("devices", "add", "gone", "--profile", "local", "--python", "/no/such/python3")
    code, out, _ = here("doctor", "gone")
    assert code == 1
    assert out.splitlines()[-1].startswith("not ready: python; not checked: "), out


def test_doctor_and_probe_of_a_board_in_use(here):
    with open_device("local", what="bench of a colleague"):
        code, out, _ = here("doctor")
        assert code == 1 and "bench of a colleague" in out and "not ready: lock" in out
        code, _, err = here("devices", "probe", "local")
        assert code == 1 and "bench of a colleague" in err and "--wait SECONDS" in err


def test_doctor_waits_for_a_board(here):
    began, end = threading.Event(), threading.Event()

    def hold():
        with open_device("local", what="bench of a colleague"):
            began.set()
            end.wait(3)

    other = threading.Thread(target=hold)
    other.start()
    assert began.wait(20)
    code, _, err = here("doctor", "--wait", "30")
    end.set()
    other.join()
    assert code == 0 and "bench of a colleague" in err


def test_doctor_of_an_unknown_board(here):
    code, _, err = here("doctor", "locla")
    assert code == 2 and "did you mean local?" in err


def test_on_a_terminal_what_is_looked_at_is_told(place):
    command = [sys.executable, "-c", "from edgewright.cli import main; main()", "doctor"]
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, env={**os.environ, "TERM": "xterm"})
    os.close(follower)
    seen = b""
    while True:
        try:
            chunk = os.read(leader, 4096)
        except OSError:  # the terminal's other side is closed
            break
        if not chunk:
            break
        seen += chunk
    out = process.communicate(timeout=60)[0]
    os.close(leader)
    assert process.returncode == 0 and b"ready" in out
    assert b"looking at local: engines" in seen


def test_what_a_board_tells_cannot_reach_the_terminal(here, place):
    (place / "lib").mkdir()
    (place / "lib" / "sitecustomize.py").write_text("import platform\nplatform.release = lambda: '[red]\\x1b[31m:smile:'\n")
    here("devices", "add", "odd", "--profile", "local", "--python", f"env PYTHONPATH={place / 'lib'} {sys.executable}")
    code, out, err = here("devices", "probe", "odd")
    assert code == 0, err
    assert "Linux [red]?[31m:smile:" in out and "\x1b" not in out + err
