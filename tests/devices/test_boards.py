"""Board profiles: what is shipped, what users write, strictness, edits that keep comments, files that are whole."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgewright.devices import board_text, boards
from edgewright.devices.board_edit import edited, parse_changes
from edgewright.devices.boards import find_board, parse_board, read_board, remove_board, save_board
from edgewright.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

GIB = 1 << 30


@pytest.fixture
def folder(place):
    """The user's empty folder of boards."""
    found = place / "config" / "edgewright" / "boards"
    found.mkdir(parents=True)
    return found


# --- shipped -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "architecture", "transport", "meters", "ram", "governor"),
    [
        ("generic_x86", "x86_64", "ssh", ("rapl", "hwmon"), None, "performance"),
        ("raspberry_pi_4", "aarch64", "ssh", ("hwmon",), GIB, "performance"),
        ("raspberry_pi_5", "aarch64", "ssh", ("pmic", "hwmon"), GIB, "performance"),
        ("jetson_orin", "aarch64", "ssh", ("ina3221", "hwmon"), 4 * GIB, "performance"),
        ("imx8mp", "aarch64", "ssh", ("hwmon",), GIB, "performance"),
        ("generic_android", "aarch64", "adb", ("android",), None, ""),
    ],
)
def test_shipped_profiles_say_what_is_known_of_the_boards(place, name, architecture, transport, meters, ram, governor):
    board = {one.name: one for one in boards.shipped_boards()}[name]
    assert (board.architecture, board.transport, board.meters, board.ram_bytes, board.governor) == (
        *(architecture, transport, meters, ram, governor),
    )
    assert board.flash_bytes >= 512 << 20, "NumPy, LiteRT and models must fit"
    assert board.python == "python3" and board.folder == "~/.edgewright"
    assert "litert" in board.engines and (architecture == "x86_64") == (board.engines[0] == "openvino")
    # What is shipped must pass what users' own files must pass: plug-ins of these names exist.
    assert parse_board("copy", board.file.read_text(), "copy.toml", file=Path("copy.toml")).engines == board.engines


def test_six_profiles_are_shipped():
    assert boards.shipped_names() == sorted(
        ["generic_x86", "raspberry_pi_4", "raspberry_pi_5", "jetson_orin", "imx8mp", "generic_android"]
    )


def test_this_machine_is_always_a_board(place):
    board = find_board("local")
    assert (board.transport, board.address, board.file) == ("local", "", None)
    answer = subprocess.run([*board.python.split(), "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert answer.stdout.strip() == sys.prefix


def test_a_shipped_profile_without_an_address_says_how_to_add_a_board(place):
    with pytest.raises(UsageError) as caught:
        find_board("raspberry_pi_5")
    assert "edgewright devices add MY_BOARD --profile raspberry_pi_5 --address" in caught.value.hint
    assert find_board("generic_android").transport == "adb", "adb finds the only device by itself"


def test_an_unknown_board_is_told_with_the_nearest_name(folder):
    (folder / "pi5.toml").write_text('extends = "raspberry_pi_5"\naddress = "pi@h"\n')
    with pytest.raises(UsageError, match="there is no board 'pi6'") as caught:
        find_board("pi6")
    assert caught.value.hint.startswith("did you mean pi5? known: local, pi5, generic_android")


# --- the user's own ----------------------------------------------------------------------------------------------------


def test_a_board_of_ones_own_takes_from_its_profile_what_it_does_not_say(folder):
    (folder / "pi5.toml").write_text(
        'extends = "raspberry_pi_5"\naddress = "pi@192.168.1.20:2222"\nmeters = []\n'
        '[limits]\nram = "8 GiB"\nflash = ""\n[options]\nidentity_file = "~/.ssh/id"\nconnect_timeout_s = 5\n'
    )
    board, profile = find_board("pi5"), read_board("raspberry_pi_5")
    assert (board.name, board.title, board.address) == ("pi5", "Raspberry Pi 5", "pi@192.168.1.20:2222")
    assert (board.engines, board.meters) == (profile.engines, ())
    assert (board.ram_bytes, board.flash_bytes) == (8 * GIB, None)
    assert board.options == {"identity_file": "~/.ssh/id", "connect_timeout_s": "5"}
    assert board.file == folder / "pi5.toml"
    assert json.loads(json.dumps(board.to_json()))["options"] == dict(board.options)
    hash(board)


def test_profiles_of_ones_own_extend_each_other_and_join_their_options(folder):
    (folder / "lab.toml").write_text('extends = "raspberry_pi_4"\naddress = "a@b"\n[options]\njump = "gate"\nknown_hosts = "k"\n')
    (folder / "pi.toml").write_text('extends = "lab"\naddress = "c@d"\n[options]\njump = "other"\n')
    (folder / "here.toml").write_text('extends = "lab"\ntransport = "local"\naddress = ""\n')
    assert find_board("pi").options == {"jump": "other", "known_hosts": "k"}
    assert find_board("here").options == {}, "options of SSH mean nothing to another transport"
    assert [board.name for board in boards.user_boards()] == ["here", "lab", "pi"]


@pytest.mark.parametrize("address", ["pi@host:abc", "pi@host:70000", "pi@[::1"])
def test_an_address_that_is_none_is_refused_where_it_is_written(folder, address):
    (folder / "pi.toml").write_text(f'extends = "raspberry_pi_4"\naddress = "{address}"\n')
    with pytest.raises(UsageError, match="the address is no SSH address"):
        find_board("pi")


def test_a_board_of_ones_own_comes_before_the_shipped_one_that_it_extends(folder):
    (folder / "raspberry_pi_5.toml").write_text('extends = "raspberry_pi_5"\naddress = "pi@h"\n')
    assert find_board("raspberry_pi_5").address == "pi@h"
    assert find_board("raspberry_pi_5").meters == ("pmic", "hwmon")


def test_a_profile_without_extends_stands_alone(folder):
    (folder / "box.toml").write_text('transport = "local"\npython = "qemu-aarch64 -L /root64 python3"\nfolder = "/opt/edge"\n')
    board = find_board("box")
    assert (board.title, board.architecture, board.python, board.folder) == (
        *("box", "", "qemu-aarch64 -L /root64 python3", "/opt/edge"),
    )


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('extends = "a"\n', "extends itself: a -> a", "raspberry_pi_5"),
        ('extends = "b"\n', "extends itself: a -> b -> a", ""),
        ('extends = "raspbery_pi_5"\n', "extends 'raspbery_pi_5', which is no profile", "did you mean raspberry_pi_5?"),
        ("extends = 5\n", "'extends' is 5", 'extends = "raspberry_pi_5"'),
        ("", "neither 'extends' nor 'transport'", "raspberry_pi_4"),
        ('transport = "shh"\n', "there is no transport 'shh'", "did you mean ssh?"),
        ('transport = ""\n', "'transport' is ''", ""),
        ('extends = "local"\nadress = "x"\n', "has 'adress', which profiles do not have", "did you mean address?"),
        ('extends = "local"\nengines = ["litret"]\n', "there is no engine 'litret'", "did you mean litert?"),
        ('extends = "local"\nengines = "litert"\n', "'engines' is 'litert', a list of names", 'engines = ["litert"]'),
        ('extends = "local"\nmeters = ["ina3222"]\n', "there is no meter 'ina3222'", "did you mean ina3221?"),
        ('extends = "local"\nmeters = [1]\n', "'meters' is [1]", ""),
        ('extends = "local"\narchitecture = "arm64"\n', "'architecture' is 'arm64'", "did you mean aarch64?"),
        ('extends = "local"\narchitecture = "x86-64"\n', "'architecture' is 'x86-64'", "did you mean x86_64?"),
        ('extends = "local"\npython = 3\n', "'python' is 3, a text is expected", 'python = "python3"'),
        ('extends = "local"\npython = "a \'b"\n', "'python' is 'a 'b', a command is expected", ""),
        ('extends = "local"\nfolder = "edge"\n', "'folder' is 'edge'", "~/.edgewright"),
        ('extends = "local"\nfolder = "/"\n', "'folder' is '/'", ""),
        ('extends = "local"\naddress = "-oProxyCommand=x"\n', "does not begin with '-'", "pi@"),
        ('extends = "local"\ntitle = "a\\u001b[31m"\n', "'title' is 'a\\x1b[31m'", ""),
        ('extends = "local"\ngovernor = "fast; rm"\n', "'governor' is 'fast; rm'", "performance"),
        ('extends = "local"\nlimits = 3\n', "'limits' is 3, a table", "[limits]"),
        ('extends = "local"\n[limits]\nrma = "4 GiB"\n', "[limits] has 'rma'", "did you mean ram?"),
        ('extends = "local"\n[limits]\nram = "4G"\n', "limits.ram is '4G', which is no size", '"4 GiB"'),
        ('extends = "local"\n[limits]\nram = -1\n', "limits.ram is -1", ""),
        ('extends = "local"\n[limits]\nram = true\n', "limits.ram is True", ""),
        ('extends = "local"\n[limits]\nflash = "0 GiB"\n', "limits.flash is '0 GiB'", ""),
        ('extends = "imx8mp"\n[options]\nidentity_flie = "x"\n', "has options.identity_flie", "did you mean identity_file?"),
        ('extends = "raspberry_pi_5"\n[options]\njump = ["x"]\n', "options.jump is ['x']", ""),
        ("schema = 2\n", "schema 2, this Edgewright reads schema 1", "upgrade"),
        ("extends = \n", "no valid TOML", "devices show"),
        ("extends = " + "[" * 5000, "no valid TOML", ""),
    ],
)  # fmt: skip
def test_wrong_profiles_are_refused_with_file_key_and_a_way_out(folder, text, message, hint):
    (folder / "a.toml").write_text(text)
    (folder / "b.toml").write_text('extends = "a"\n')
    with pytest.raises(UsageError) as caught:
        read_board("a")
    if "extends itself" not in message:
        assert str(folder / "a.toml") in caught.value.message
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_engines_of_third_parties_are_known(folder, monkeypatch):
    class Point:
        name = "hailo"

    monkeypatch.setattr(board_text, "entry_points", lambda group: [Point] if group == "edgewright.engines" else [])
    (folder / "a.toml").write_text('extends = "local"\nengines = ["hailo"]\n')
    assert read_board("a").engines == ("hailo",)


def test_a_file_that_is_no_text_or_cannot_be_read(folder):
    (folder / "a.toml").write_bytes(b"title = '\xff'")
    with pytest.raises(UsageError, match="no text in UTF-8"):
        read_board("a")
    (folder / ".#a.toml").symlink_to("nowhere")
    (folder / "b.toml").mkdir()
    assert list(boards.board_files()) == ["a", "b"]
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        read_board("b")


@pytest.mark.parametrize("name", ["", ".hidden", "a b", "a/b", "../a", "-x", "a\n", "ä"])
def test_names_that_cannot_be(folder, name):
    with pytest.raises(UsageError, match="no name for a board"):
        save_board(name, 'extends = "local"\n')
    with pytest.raises(UsageError, match="always this machine"):
        save_board("local", 'extends = "local"\n')
    assert list(folder.iterdir()) == []


@given(st.integers(1, 10**6), st.sampled_from([("B", 1), ("kB", 1000), ("MB", 1000**2), ("GB", 1000**3), ("TB", 1000**4),
    ("KiB", 1024), ("MiB", 1024**2), ("GiB", 1024**3), ("TiB", 1024**4)]), st.sampled_from(["", " ", "  "]))  # fmt: skip
def test_sizes(number, unit, gap):
    name, step = unit
    assert board_text.parse_size(f"{number}{gap}{name}", "x") == number * step
    assert board_text.parse_size(number * step, "x") == number * step


def test_broken_sizes():
    assert board_text.parse_size("1.5 GiB", "x") == 3 * GIB // 2
    assert board_text.parse_size("", "x") is None
    for text in ("GiB", "1 gib", "1 Gib", "nan GiB", "1e9 B", "٣ GiB", "0.1 B", 1.5, None, [], "9" * 400 + " GiB"):
        with pytest.raises(UsageError, match="is no size"):
            board_text.parse_size(text, "x")


# --- edits -------------------------------------------------------------------------------------------------------------

COMMENTED = """# my board
extends = "raspberry_pi_5"  # the one on the desk
address = 'pi@h'
# what counts
engines = ["litert", "onnxruntime"]

# room
[limits]
ram = "8 GiB" # bought big

[options]
jump = "gate"
"""


def test_an_edit_changes_its_lines_and_no_others():
    changes = parse_changes(["address=pi@other", "engines=litert", "limits.flash=3 GiB", "governor=powersave"], ["options.jump"])
    edit = edited(COMMENTED, changes, "x")
    assert edit.kept
    assert edit.text == COMMENTED.replace("'pi@h'", '"pi@other"').replace('["litert", "onnxruntime"]', '["litert"]').replace(
        "\n\n# room", '\ngovernor = "powersave"\n\n# room'
    ).replace("# bought big\n", '# bought big\nflash = "3 GiB"\n').replace('jump = "gate"\n', "")


def test_a_value_on_several_lines_is_written_anew_and_that_is_told():
    text = '# mine\nengines = [\n  "litert",  # first\n]\nextends = "local"\n'
    edit = edited(text, parse_changes(["engines=openvino"]), "x")
    assert tomllib.loads(edit.text) == {"engines": ["openvino"], "extends": "local"}
    assert not edit.kept
    assert edited(text.replace("# mine\n", "").replace("  # first", ""), parse_changes(["engines=openvino"]), "x").kept


KEYS = [("title",), ("address",), ("governor",), ("engines",), ("limits", "ram"), ("limits", "flash"), ("options", "jump"),
        ("options", "a b"), ("options", 'q"')]  # fmt: skip
LINES = st.sampled_from(
    [
        *("# note", "", 'title = "t" # why', "address='a#b'", "engines = ['x', \"y\"]", "engines = [\n 'x', # one\n]"),
        *('governor = """\n[limits]\n"""', "python   =   \"p 'q'\"", "limits.ram = 5", "options = {jump = 'x'}"),
        *("[limits]", "[ options ] # ways", "ram = '1 GiB'", "flash = 7", 'jump = "[x]"', "'a b' = 1", "\"a b\" = ']'"),
    ]
)
VALUES = st.one_of(st.text(st.characters(blacklist_categories=["Cs"]), max_size=8), st.none())


@given(
    st.lists(LINES, max_size=9),
    st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=4),
    st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=5), max_size=3),
)
@example(['title = "t" # why'], {("title",): "\x7f\\\"'\n#"}, [])
def test_an_edited_text_says_exactly_what_it_should(lines, changes, names):
    text = "\n".join(lines) + "\n"
    try:
        wanted = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    changes = {key: names if key == ("engines",) and value is not None else value for key, value in changes.items()}
    for key, value in changes.items():
        table = wanted
        if len(key) == 2:
            table = wanted.setdefault(key[0], {}) if value is not None else wanted.get(key[0], {})
        if value is None:
            table.pop(key[-1], None)
        else:
            table[key[-1]] = value
    edit = edited(text, changes, "x")
    assert tomllib.loads(edit.text) == wanted
    if edit.kept:
        unchanged = [line for line in lines if line.startswith("# note")]
        assert [line for line in edit.text.splitlines() if line.startswith("# note")] == unchanged


@pytest.mark.parametrize(
    ("texts", "removed", "message", "hint"),
    [
        (["ram=2 GiB"], [], "--set names 'ram'", "limits.ram"),
        (["limits.rma=2 GiB"], [], "--set names 'limits.rma'", "did you mean limits.ram?"),
        (["limits=2"], [], "--set names 'limits'", ""),
        (["schema=1"], [], "--set names 'schema'", ""),
        (["options.=x"], [], "--set names 'options.'", ""),
        (["title"], [], "not of the form KEY=VALUE", "--set"),
        (["title=a", "title=b"], [], "twice, to 'a' and to 'b'", ""),
        (["title=a"], ["title"], "title is named twice", ""),
        ([], ["nothing"], "--unset names 'nothing'", ""),
        (["engines=[1,"], [], "", ""),
    ],
)
def test_assignments_that_cannot_be(texts, removed, message, hint):
    if texts == ["engines=[1,"]:  # no TOML: it is a list with one strange name, which the profile's check refuses
        assert parse_changes(texts) == {("engines",): ["[1"]}
        return
    with pytest.raises(UsageError) as caught:
        parse_changes(texts, removed)
    assert message in caught.value.message and hint in caught.value.hint


def test_assignments_are_plain_texts_or_toml():
    texts = ['title="a = b"', "python=a = b", "engines=['x']", "meters=a, b,", "limits.ram=5", "options.jump=a,b", "governor="]
    assert parse_changes(texts) == {
        ("title",): "a = b",
        ("python",): "a = b",
        ("engines",): ["x"],
        ("meters",): ["a", "b"],
        ("limits", "ram"): 5,
        ("options", "jump"): "a,b",
        ("governor",): "",
    }


def test_quotes_within_a_value_do_not_cost_the_comments():
    text = '# mine\ntitle = "a \\"b\\" # c" # why\nextends = "local"\n'
    edit = edited(text, parse_changes(["title=x"]), "x")
    assert edit.kept and edit.text == '# mine\ntitle = "x" # why\nextends = "local"\n'


# --- files -------------------------------------------------------------------------------------------------------------


def test_a_bad_text_leaves_the_old_file(folder):
    save_board("a", 'extends = "local"\ntitle = "old"\n', new=True)
    with pytest.raises(UsageError, match="titel"):
        save_board("a", 'extends = "local"\ntitel = "new"\n')
    with pytest.raises(UsageError, match="there is a board 'a' already"):
        save_board("a", 'extends = "local"\n', new=True)
    assert read_board("a").title == "old"
    assert [file.name for file in folder.iterdir()] == ["a.toml"]


def test_readers_never_see_half_a_file(folder):
    texts = [f'extends = "local"\ntitle = "{letter * 20000}"\n' for letter in "ab"]
    save_board("a", texts[0])
    stop, seen = threading.Event(), set()

    def write():
        while not stop.is_set():
            for text in texts:
                save_board("a", text)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(300):
            seen.add(boards.own_text("a"))
    finally:
        stop.set()
        writer.join()
    assert seen <= set(texts)


def test_a_file_that_is_a_link_stays_one(folder, place):
    (place / "dotfiles").mkdir()
    (place / "dotfiles" / "pi.toml").write_text('extends = "local"\n')
    (folder / "a.toml").symlink_to(place / "dotfiles" / "pi.toml")
    save_board("a", 'extends = "local"\ntitle = "new"\n')
    assert (folder / "a.toml").is_symlink()
    assert 'title = "new"' in (place / "dotfiles" / "pi.toml").read_text()


def test_a_folder_that_cannot_be_made(place, monkeypatch):
    (place / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "file"))
    assert boards.board_files() == {}
    with pytest.raises(UsageError, match="cannot write to") as caught:
        save_board("a", 'extends = "local"\n')
    assert "XDG_CONFIG_HOME" in caught.value.hint


def test_without_a_home_only_saving_fails(place, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(UsageError, match="no home folder"):
        save_board("a", 'extends = "local"\n')
    assert find_board("local").name == "local"
    assert read_board("imx8mp").title == "NXP i.MX 8M Plus"


def test_removing(folder):
    save_board("lab", 'extends = "local"\n')
    save_board("pi", 'extends = "lab"\n')
    (folder / "broken.toml").write_text("x")
    with pytest.raises(UsageError, match="'lab' is extended by pi"):
        remove_board("lab")
    assert remove_board("pi") == folder / "pi.toml"
    remove_board("lab")
    remove_board("broken")
    assert list(folder.iterdir()) == []
    with pytest.raises(UsageError, match="is shipped with Edgewright") as caught:
        remove_board("imx8mp")
    assert "--profile imx8mp" in caught.value.hint
    with pytest.raises(UsageError, match="no board 'pi' of your own"):
        remove_board("pi")


def test_boards_load_nothing_heavy():
    code = (
        "import sys\nfrom edgewright.devices import find_board, boards, board_edit, checks, commands\nfind_board('local')\n"
        "boards.shipped_boards()\n"
        "heavy = {'numpy', 'rich', 'asyncssh', 'edgewright.runtime', 'edgewright.benchmarks'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "HOME": "/nowhere"})
    assert (done.returncode, done.stderr) == (0, "")
