"""The command line: exit codes, streams, JSON, settings and where they come from, interruption, tables."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgewright import commands, options, testing
from edgewright.errors import UsageError
from edgewright.preprocess import Preprocess

VERBS = (
    *("compress", "convert", "verify", "evaluate", "bench", "report", "compare", "history", "run", "devices", "doctor", "deploy"),
    *("deployed", "rollback", "inspect", "recipes", "cache", "demo"),
)
INSPECT_KEYS = [
    "path", "format", "inputs", "outputs", "ops", "parameters", "macs", "macs_note", "raw_bytes", "deflated_bytes", "weights",
    "notes",
]  # fmt: skip
TENSOR_KEYS = ["name", "shape", "dtype", "scale", "zero_point"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    np.savez(folder / "x.npz", x=np.arange(12, dtype=np.float32).reshape(3, 4))
    testing.plus_one_tflite(folder / "one.tflite")
    testing.plus_one_onnx(folder / "one.onnx", batch=None)
    other = folder / "other.onnx"
    testing.plus_one_onnx(other)
    import onnx
    from onnx import numpy_helper

    model = onnx.load(other)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full(1, 1.5, np.float32), "one"))
    onnx.save(model, other)
    return folder


def process(*arguments, **options):
    """Starts the command line as a process of its own, with Ctrl-C on: a job in a shell's background inherits it ignored."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen([sys.executable, "-m", "edgewright.cli", *map(str, arguments)], **streams)
    finally:
        signal.signal(signal.SIGINT, before)


# --- help --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_help(here, verb):
    code, out, err = here(verb, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: edgewright {verb}")
    assert "env var" not in out and "EDGEWRIGHT_" not in out
    assert max(map(len, out.splitlines())) <= 80


def test_main_help_tells_where_values_come_from(here):
    code, out, _ = here("--help")
    assert code == 0
    assert all(re.search(rf"^  {verb} +\w.*\.$", out, re.M) for verb in VERBS), "short helps are whole sentences"
    assert all(
        word in " ".join(out.split()) for word in ("EDGEWRIGHT_CONVERT_PRECISION", "./edgewright.toml", "~/.config/edgewright")
    )
    assert here("-h")[1] == out


def test_no_arguments_print_the_help_as_an_error(here):
    code, out, err = here()
    assert (code, out) == (2, "")
    assert "Usage: edgewright" in err and "error:" not in err


def test_version(here):
    assert here("--version") == (0, "edgewright 0.1.0\n", "")


def test_help_loads_nothing_heavy(place):
    code = (
        "import sys; sys.argv = ['edgewright', 'convert', '--help']\n"
        "from edgewright.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'numpy', 'tensorflow', 'keras', 'openvino', 'onnx', 'ai_edge_litert'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- exit codes and streams --------------------------------------------------------------------------------------------


def test_inspect_json_is_alone_on_stdout(here, models):
    code, out, err = here("inspect", models / "one.tflite", "--json")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert list(found) == INSPECT_KEYS
    assert list(found["inputs"][0]) == list(found["outputs"][0]) == TENSOR_KEYS
    assert (found["format"], found["inputs"][0]["shape"]) == ("tflite", [1, 4])


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("arguments", "code", "said", "advice"),
    [
        (("inspect", "none.tflite"), 1, "there is no model at none.tflite", "check the path"),
        (("inspect",), 2, "Missing argument", "inspect --help"),
        (("inspekt", "x"), 2, "inspekt", "inspect"),
        (("convert", "m.keras", "--presicion", "int8"), 2, "--presicion", "--precision"),
        (("convert", "m.keras", "--precision", "int4"), 2, "int4", "convert --help"),
        (("convert", "m.keras", "--window", "9"), 2, "--window", "add --samples"),
        (("convert", "m.keras", "--memory-limit", "much"), 2, "--memory-limit much is no size", "4G"),
    ],
)
def test_errors_are_one_line_and_a_hint(here, arguments, code, said, advice, as_json):
    found, out, err = here(*arguments, *(["--json"] if as_json else []))
    assert found == code
    assert said in err and advice in err
    assert "Traceback" not in err and len(err.splitlines()) <= 3
    if as_json:
        answer = json.loads(out)
        assert answer["exit_code"] == code
        assert said in answer["error"]["message"]
    else:
        assert out == ""


def test_broken_limits_are_exit_code_4_and_one_json_document(here, models):
    arguments = ("verify", models / "other.onnx", "-a", models / "one.onnx", "-s", models / "x.npz", "--min-sqnr", "90")
    code, out, err = here(*arguments, "--json")
    found = json.loads(out)
    assert code == 4
    assert found["settings"]["passed"] is False and "sqnr" in found["settings"]["failures"][0]
    assert "is required" in err
    assert here(*arguments)[0] == 4


def test_verify_passes_and_prints_to_stdout_only(here, models):
    files = (models / "one.tflite", "-a", models / "one.onnx", "-s", models / "x.npz")
    code, out, err = here("verify", *files, "--min-sqnr", "inf", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["settings"]["min_sqnr_db"] == "inf" and found["metrics"][2]["value"] == "inf"
    assert found["options"]["min_sqnr"] == {"value": "inf", "from": "commandline"}
    code, out, err = here("verify", *files)
    assert (code, err) == (0, "")
    assert "inf dB" in out


def test_warnings_go_to_stderr(here, models):
    code, out, err = here("verify", models / "one.tflite", "-a", models / "one.onnx")
    assert code == 0
    assert "warning: no samples were given" in err and "warning" not in out
    assert "16 random inputs" in out


@pytest.mark.parametrize("flag", ["-v", "--verbose", "EDGEWRIGHT_VERBOSE"])
def test_traceback_with_verbose_only(here, monkeypatch, flag):
    if flag.startswith("-"):
        code, _, err = here("inspect", "none.tflite", flag)
    else:
        monkeypatch.setenv(flag, "1")
        code, _, err = here("inspect", "none.tflite")
    assert code == 1
    assert "Traceback" in err and "ModelError" in err


def test_what_nobody_foresaw_is_called_a_defect(here, models, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("edgewright.conversion.inspect", broken)
    code, out, err = here("inspect", models / "one.tflite", "--json")
    assert code == 1
    assert "unexpected ZeroDivisionError: by zero" in err and "defect of Edgewright" in err and "Traceback" not in err
    assert json.loads(out)["error"]["message"] == "unexpected ZeroDivisionError: by zero"
    assert 'raise ZeroDivisionError("by zero")' in here("inspect", models / "one.tflite", "-v")[2]


def test_verbose_behind_two_dashes_is_a_file(here):
    code, _, err = here("inspect", "--", "-v")
    assert code == 1 and "no model at -v" in err


# --- settings ----------------------------------------------------------------------------------------------------------


def origins(out):
    return {name: option["from"] for name, option in json.loads(out)["options"].items()}


def test_precedence_and_origin_of_settings(here, place, models, monkeypatch):
    arguments = ("verify", models / "one.tflite", "--against", models / "one.onnx", "--json")
    users = place / "config" / "edgewright" / "edgewright.toml"
    users.parent.mkdir(parents=True)

    def seed():
        found = json.loads(here(*arguments)[1])["options"]["min_sqnr"]
        return found["value"], found["from"]

    assert seed() == (None, "default")
    users.write_text("[verify]\nmin-sqnr = 1.0\nexact = true\n")
    assert seed() == (1.0, str(users))
    Path("edgewright.toml").write_text("[verify]\nmin-sqnr = 2.0\n")
    assert seed() == (2.0, "edgewright.toml")
    assert origins(here(*arguments)[1])["exact"] == str(users)
    monkeypatch.setenv("EDGEWRIGHT_VERIFY_MIN_SQNR", "3.0")
    assert seed() == (3.0, "environment")
    arguments = (*arguments, "--min-sqnr", "4")
    assert seed() == (4.0, "commandline")


def test_json_may_be_asked_for_in_a_file_or_the_environment(here, models, monkeypatch):
    Path("edgewright.toml").write_text("[inspect]\njson = true\n")
    assert json.loads(here("inspect", models / "one.tflite")[1])["format"] == "tflite"
    assert json.loads(here("inspect", "none.tflite")[1])["exit_code"] == 1
    Path("edgewright.toml").unlink()
    monkeypatch.setenv("EDGEWRIGHT_INSPECT_JSON", "1")
    assert json.loads(here("inspect", "none.tflite")[1])["exit_code"] == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[verify\n", ("edgewright.toml is no valid TOML", "line 1")),
        ("min_sqnr = 3\n", ("'min_sqnr' stands outside a section", "[convert]")),
        ("[verifi]\nexact = true\n", ("no verb for section [verifi]", "compress, convert, verify, evaluate, bench")),
        ("[verify]\nmin-sqrn = 3\n", ("[verify] has 'min-sqrn'", "did you mean min-sqnr?", "exact", "memory-limit")),
        ("[verify]\nmin-sqnr = 'loud'\n", ("--min-sqnr", "the value stands in edgewright.toml")),
        ("[verify]\nengine = 'litrt'\n", ("litrt", "edgewright.toml")),
        ("[verify]\nmodel = 'a.tflite'\n", ("'model', which is no option",)),
    ],
)
def test_a_wrong_settings_file_is_a_usage_error(here, models, text, words):
    Path("edgewright.toml").write_text(text)
    code, out, err = here("verify", models / "one.tflite", "-a", models / "one.onnx")
    assert (code, out) == (2, "")
    for word in words:
        assert word in err
    assert "Traceback" not in err


def test_a_settings_file_that_is_no_text(here, models):
    Path("edgewright.toml").write_bytes(b"\xff\xfe[verify]")
    code, _, err = here("inspect", models / "one.tflite")
    assert code == 2 and "is no valid TOML" in err


def test_a_wrong_value_in_the_environment_names_the_variable(here, models, monkeypatch):
    monkeypatch.setenv("EDGEWRIGHT_VERIFY_MIN_SQNR", "loud")
    code, _, err = here("verify", models / "one.tflite", "-a", models / "one.onnx")
    assert code == 2 and "EDGEWRIGHT_VERIFY_MIN_SQNR" in err


def test_one_text_for_an_option_that_may_be_repeated(here, models):
    """Not one declaration per letter."""
    Path("edgewright.toml").write_text("[verify]\npreprocess = 'scale=1/2'\n")
    files = (models / "one.tflite", "-a", models / "one.onnx", "-s", models / "x.npz")
    code, out, err = here("verify", *files, "--json")
    assert code == 0, err
    assert json.loads(out)["options"]["preprocess"]["value"] == ["scale=1/2"]


# --- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4G", 4 << 30),
        ("500M", 500 << 20),
        ("1.5g", 3 << 29),
        ("2GiB", 2 << 30),
        ("64 KB", 64 << 10),
        ("4096", 4096),
        ("1T", 1 << 40),
    ],
)
def test_memory_limit(text, size):
    assert options.limits_of(7.0, text).memory_bytes == size
    assert options.limits_of(7.0, text).timeout_s == 7.0


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "4X", "4GG", "inf", "nan", "1e400", "0.1", "4 G 2", "٤G"])
def test_memory_limit_that_is_none(text):
    with pytest.raises(UsageError, match="is no size"):
        options.limits_of(7.0, text)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["scale=1/127.5,offset=-1"], {"": {"scale": 1 / 127.5, "offset": -1}}),
        (["img:scale=2"], {"img": {"scale": 2}}),
        (["mean=0.1:0.2:0.3"], {"": {"offset": (-0.1, -0.2, -0.3)}}),
        (["serving_default_x:0:scale=2"], {"serving_default_x:0": {"scale": 2}}),
        (["a:scale=2", "b:mean=1:2:3"], {"a": {"scale": 2}, "b": {"offset": (-1, -2, -3)}}),
    ],
)
def test_preprocess_with_and_without_an_input_name(texts, expected):
    data = commands.data_of("x.npz", None, None, texts, None, 0)
    assert data.preprocess == {name: Preprocess(**fields) for name, fields in expected.items()}


def test_preprocess_declared_twice_is_refused():
    with pytest.raises(UsageError, match="input 'a' twice"):
        commands.data_of("x.npz", None, None, ["a:scale=2", "a:offset=1"], None, 0)


# --- processes ---------------------------------------------------------------------------------------------------------


def descendants(pid):
    """Processes that descend from one, itself excluded, by /proc."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    below, todo = [], [pid]
    while todo:
        children = found.get(todo.pop(), [])
        below += children
        todo += children
    return below


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def slow_samples(place):
    """Samples that come after a minute; "started" appears when a child waits for them."""
    place.joinpath("slow_samples.py").write_text(
        "import time, numpy\n"
        "def slow():\n"
        "    open('started', 'w').close()\n"
        "    time.sleep(60)\n"
        "    return [{'x': numpy.zeros(4, numpy.float32)}]\n"
    )
    return place


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for children in /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("verb", ["compress", "convert", "verify"])
def test_interruption_leaves_nothing(slow_samples, models, verb, number, code):
    temporary = slow_samples / "temporary"
    temporary.mkdir()
    data = ("-s", "slow_samples:slow")
    arguments = {
        "compress": ("compress", models / "one.tflite", "-o", "out/m", "--to", "tflite", *data, "--cache", "cached", "--json"),
        "convert": ("convert", models / "one.tflite", "-o", "out/m", "-p", "int8", "-s", "slow_samples:slow", "--json"),
        "verify": ("verify", models / "one.tflite", "-a", models / "one.onnx", "-s", "slow_samples:slow", "--json"),
    }[verb]
    with process(*arguments, env={**os.environ, "TMPDIR": str(temporary)}) as running:
        until(Path("started").exists)
        children = descendants(running.pid)
        assert children
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    assert running.returncode == code
    until(lambda: not any(map(alive, children)), 10)
    assert [path for path in slow_samples.joinpath("out").rglob("*") if path.is_file()] == []
    assert list(slow_samples.joinpath("out").glob(".edgewright-*")) == []
    assert list(temporary.iterdir()) == []
    assert "Traceback" not in err
    if code == 130:
        assert err == "error: cancelled\n"
        assert json.loads(out) == {"error": {"type": "EdgewrightError", "message": "cancelled", "hint": ""}, "exit_code": 130}


def test_a_reader_that_leaves_early_is_no_error(place, models):
    command = f"{sys.executable} -m edgewright.cli inspect {models / 'one.tflite'} --json | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("{", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_behind_stdout_is_no_defect(place, models):
    with Path("/dev/full").open("w") as full, process("inspect", models / "one.tflite", stdout=full) as running:
        _, err = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "cannot write the output: No space left" in err
    assert "defect" not in err and "Traceback" not in err and "Exception ignored" not in err


# --- tables ------------------------------------------------------------------------------------------------------------


SHOW = """
from pathlib import Path
from edgewright.artifact import TensorSpec
from edgewright.converters.model_info import ModelInfo, WeightInfo
from edgewright.terminal import print_info

names = [f"model/a_rather_long_layer_name_{n}/with_a_part/kernel" for n in range(24)] + ["\\x1b]evil\\x07[red]:warning:"]
weights = tuple(WeightInfo(name, (512, 1, 5, 128), "float32", 32, 0.125, 1234567, 65536, 0) for name in names[::-1])
inputs = (TensorSpec("a_rather_long_input_name_that_exporters_make_up:0", (None, 224, 224, 3), "uint8", 0.0078125, 128),)
ops = {f"OPERATOR_NUMBER_{n}": n for n in range(20)}
print_info(Path("some/folder/m.tflite"), ModelInfo("tflite", inputs, inputs, ops, weights, 1, 2, "", 3, 4, ()), weights=20)
"""


def on_terminal(columns, *argv):
    """Standard output of a Python process on a terminal of this width, without colours."""
    leader, follower = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    with subprocess.Popen([sys.executable, *map(str, argv)], stdout=follower, stderr=subprocess.PIPE, env=env) as running:
        os.close(follower)
        said = b""
        while True:
            try:
                chunk = os.read(leader, 65536)
            except OSError:  # how Linux tells that the other end is closed
                break
            if not chunk:
                break
            said += chunk
        _, err = running.communicate(timeout=60)
    os.close(leader)
    assert running.returncode == 0, err.decode()
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", said.decode()).replace("\r", "")


def test_verify_fits_80_columns(place, models):
    files = (models / "one.tflite", "-a", models / "one.onnx", "-s", models / "x.npz")
    said = on_terminal(80, "-m", "edgewright.cli", "verify", *files)
    assert max(len(line.rstrip()) for line in said.splitlines()) <= 80
    assert re.search(r"^y +0 +0 +inf dB +1 +100\.00%", said, re.M), said


@pytest.mark.parametrize("columns", [80, 140])
def test_inspect_fits_the_terminal_with_one_line_per_tensor(columns):
    said = on_terminal(columns, "-c", SHOW)
    assert max(len(line.rstrip()) for line in said.splitlines()) <= columns
    rows = [line for line in said.splitlines() if line.rstrip().endswith("65,536")]
    assert len(rows) == 20 and "20 largest of 25" in said
    assert all("512x1x5x128" in row and "12.5%" in row and "1,234,567" in row for row in rows)
    assert sum("kernel" in row for row in rows) == 19
    assert ("model/a_rather_long_layer_name_23/with_a_part/kernel" in said) is (columns == 140)
    assert "?]evil?[red]:warning:" in said, "names from a file are text, not markup or terminal commands"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_traceback(tmp_path, closed):
    command = f"{sys.executable} -m edgewright.cli recipes {closed}; echo code $? > {tmp_path}/code"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (tmp_path / "code").read_text() == "code 0\n" and "Traceback" not in done.stdout + done.stderr
