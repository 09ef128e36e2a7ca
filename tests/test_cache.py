"""The cache of finished steps: an entry is there whole or not at all, whoever dies, waits, damages or fills the disk."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgewright import cache as module
from edgewright.cache import Cache, Entry, code_digest, default_root
from edgewright.errors import ArtifactError, ConversionError, EdgewrightError, UsageError
from edgewright.locks import lock_file

PARTS = {"input": "abc", "options": {"precision": "int8"}}

CHILD = """
import sys
from pathlib import Path
from edgewright import cache
from edgewright.errors import EdgewrightError

root, counter, stage, deed = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4]

def at(name):
    if name == stage:
        print(name, flush=True)
        sys.stdin.readline()

def make(folder):
    with counter.open("a") as file:
        file.write("x")
    at("begun")
    (folder / "a.bin").write_bytes(b"a" * 1000)
    with (folder / "b.bin").open("wb") as file:
        file.write(b"b" * 300)
        file.flush()
        at("half a file")
        file.write(b"b" * 200)
    at("made")
    return {"n": 1}

def write_half_a_record(entry, parts, whole=cache._write_record):
    if stage == "half a record":
        (entry.folder / cache.RECORD).write_text('{"schema": 1, "kind": "k", "fil')
        at("half a record")
    whole(entry, parts)

def rename(self, target, real=Path.rename):
    at("before the rename")
    real(self, target)
    at("after the rename")

cache._write_record, Path.rename = write_half_a_record, rename
with cache.Cache(root) as store:
    at("opened")
    try:
        if deed == "clear":
            store.clear()
        else:
            parts = None if deed == "unkept" else {"input": "abc", "options": {"precision": "int8"}}
            entry = store.step("k", "writing x", parts, make)
            print("reused" if entry.reused else "made", flush=True)
    except EdgewrightError as error:
        print(error, flush=True)
"""
STAGES = ["opened", "begun", "half a file", "made", "half a record", "before the rename", "after the rename"]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def child(root, tmp_path):
    """Starts processes that do the same step and stop at a stage until a line is written to them."""
    started = []

    def start(stage="", deed="step"):
        command = [sys.executable, "-c", CHILD, str(root), str(tmp_path / "counter"), stage, deed]
        process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1, text=True)
        started.append(process)
        if stage:
            assert process.stdout.readline() == f"{stage}\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def times_made(tmp_path):
    counter = tmp_path / "counter"
    return len(counter.read_text()) if counter.exists() else 0


def make(folder, text="text", value=None):
    (folder / "sub").mkdir()
    (folder / "sub" / "file.txt").write_text(text)
    (folder / "other.bin").write_bytes(bytes(range(256)))
    return {"n": 1} if value is None else value


def never(folder):
    raise AssertionError("the step is in the cache, it must not be done again")


def files_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def nothing_left(root):
    """No unfinished step and no lock but the one of the whole cache."""
    return list((root / "making").iterdir()) == [] and [file.name for file in (root / "locks").iterdir()] == ["cache"]


# --- a step is done once ------------------------------------------------------------------------------------------------


def test_a_step_is_done_once_and_found_by_the_next_process(root):
    with Cache(root) as store:
        assert store.find("k", PARTS) is None
        first = store.step("k", "writing x", PARTS, lambda folder: make(folder, value={"shape": (1, 2), "x": float("inf")}))
        assert (first.reused, first.kept, first.kind, first.what) == (False, True, "k", "writing x")
        assert first.value == {"shape": [1, 2], "x": float("inf")}, (
            "the value is the same whether it was made now or is read back"
        )
        assert set(first.files) == {"sub/file.txt", "other.bin"} and first.size_bytes == 4 + 256
        assert first.folder.is_relative_to(root) and (first.folder / "sub/file.txt").read_text() == "text"
        assert nothing_left(root)
    with Cache(root) as store:
        again = store.step("k", "writing x", PARTS, never)
        assert again == Entry(**{**{name: getattr(first, name) for name in Entry.__slots__}, "reused": True})
        assert store.find("k", PARTS) == again
        assert store.find("other kind", PARTS) is None and store.find("k", {**PARTS, "seed": 1}) is None


def test_forget(root):
    with Cache(root) as store:
        store.step("k", "x", PARTS, make)
        store.forget("k", {**PARTS, "more": 1})
        store.forget("k", None)
        assert store.find("k", PARTS)
        store.forget("k", PARTS)
        assert store.find("k", PARTS) is None and nothing_left(root)


@pytest.mark.parametrize("error", [ConversionError("refused"), KeyError("x"), KeyboardInterrupt(), SystemExit(143)])
def test_what_fails_leaves_nothing(root, error):
    def fails(folder):
        make(folder)
        raise error

    with Cache(root) as store:
        for parts in (PARTS, None):
            with pytest.raises(type(error)) as caught:
                store.step("k", "x", parts, fails)
            assert caught.value is error
            assert store.entries() == [] and nothing_left(root)
        assert store.step("k", "x", PARTS, make).reused is False


def test_a_value_that_json_cannot_hold_leaves_nothing(root):
    with Cache(root) as store:
        with pytest.raises(TypeError):
            store.step("k", "x", PARTS, lambda folder: {"path": folder})
        assert store.entries() == [] and nothing_left(root)


def test_what_has_no_digest_is_done_each_time_and_gone_at_the_end(root):
    with Cache(root) as store:
        entries = [store.step("k", "x", None, make) for _ in range(2)]
        assert [(entry.reused, entry.kept) for entry in entries] == [(False, False)] * 2
        assert entries[0].folder != entries[1].folder and all((e.folder / "other.bin").is_file() for e in entries)
        assert store.entries() == [] and store.find("k", None) is None
        with Cache(root):
            assert entries[0].folder.is_dir(), "another one that is opened meanwhile does not sweep it"
    assert not any(entry.folder.exists() for entry in entries)
    assert nothing_left(root)


# --- killed --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_process_leaves_no_half_an_entry(root, tmp_path, child, stage):
    with Cache(root) as store:
        kept = store.step("k", "finished before", {"input": "other"}, make)
    process = child(stage)
    process.kill()
    process.wait()
    done_before = times_made(tmp_path)
    whole = stage == "after the rename"
    with Cache(root) as store:
        assert nothing_left(root)
        assert len(store.entries()) == 1 + whole
        assert store.step("k", "finished before", {"input": "other"}, never).files == kept.files
        assert (store.find("k", PARTS) is not None) == whole
    process = child()
    assert process.communicate()[0] == ("reused\n" if whole else "made\n")
    assert times_made(tmp_path) == done_before + (not whole)
    with Cache(root) as store:
        entry = store.step("k", "writing x", PARTS, never)
        assert (entry.folder / "b.bin").read_bytes() == b"b" * 500
        assert nothing_left(root)


def test_killed_without_digest(root, child):
    process = child("half a file", "unkept")
    assert len(files_in(root / "making")) == 2
    process.kill()
    process.wait()
    with Cache(root):
        assert nothing_left(root)


def test_opening_sweeps_nothing_that_a_living_process_makes(root, tmp_path, child):
    process = child("half a file")
    with Cache(root) as store:
        assert store.entries() == []
    assert process.communicate("\n")[0] == "made\n"
    with Cache(root) as store:
        store.step("k", "writing x", PARTS, never)
    assert times_made(tmp_path) == 1


# --- two at once ---------------------------------------------------------------------------------------------------------


def waits_for(waiting, working):
    """Blocks until a process says that it waits for another."""
    assert waiting.stderr.readline() == f"the step 'writing x' is being done by process {working.pid}: waiting for it\n"


def test_a_second_process_waits_and_reuses(root, tmp_path, child):
    first = child("half a file")
    second = child()
    waits_for(second, first)
    assert second.poll() is None
    assert first.communicate("\n")[0] == "made\n"
    assert second.communicate()[0] == "reused\n"
    assert times_made(tmp_path) == 1


def test_a_second_process_takes_over_when_the_first_is_killed(root, tmp_path, child):
    first = child("half a file")
    second, third = child(), child()
    waits_for(second, first)
    waits_for(third, first)
    first.kill()
    assert sorted([second.communicate()[0], third.communicate()[0]]) == ["made\n", "reused\n"]
    assert times_made(tmp_path) == 2
    with Cache(root) as store:
        assert (store.find("k", PARTS).folder / "b.bin").read_bytes() == b"b" * 500
        assert nothing_left(root)


CROWD = """
import random, sys
from contextlib import suppress
from pathlib import Path
from edgewright.cache import Cache

rng = random.Random(sys.argv[2])
for _ in range(15):
    with Cache(Path(sys.argv[1])) as store:
        for _ in range(10):
            i = rng.randrange(3)
            entry = store.step("k", "x", {"i": i}, lambda folder: {"i": i, "n": (folder / "f").write_bytes(bytes([i]) * 9000)})
            assert entry.value == {"i": i, "n": 9000}
            deed = rng.randrange(5)
            if deed == 0:
                store.forget("k", {"i": i})
            elif deed == 1:
                with suppress(FileNotFoundError), (entry.folder / "f").open("r+b") as file:
                    file.write(b"damage")
            elif deed == 2:
                store.entries(), store.size_bytes()
"""


def test_many_processes_that_make_forget_damage_and_list_the_same_steps(root):
    crowd = [subprocess.Popen([sys.executable, "-c", CROWD, str(root), str(i)], stderr=-1, text=True) for i in range(4)]
    said = [process.communicate()[1] for process in crowd]
    assert [process.returncode for process in crowd] == [0] * 4, [text[-800:] for text in said]
    with Cache(root):
        assert nothing_left(root)


def in_threads(*calls):
    """Results or errors of calls that run at the same time; none may hang."""
    results = [None] * len(calls)

    def run(index, call):
        try:
            results[index] = call()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a thread waits for ever"
    return results


@pytest.mark.parametrize("caches", [1, 2])
def test_threads_with_one_key_make_it_once(root, caches):
    stores = [Cache(root) for _ in range(caches)]
    made = []

    def slow(folder):
        made.append(threading.get_ident())
        time.sleep(0.3)
        return make(folder)

    found = in_threads(*[lambda store=stores[i % caches]: store.step("k", "x", PARTS, slow) for i in range(6)])
    assert len(made) == 1
    assert sorted(entry.reused for entry in found) == [False] + [True] * 5
    for store in stores:
        store.close()
    assert nothing_left(root)


def test_threads_with_different_keys_work_at_the_same_time(root):
    both = threading.Barrier(2, timeout=60)

    def meet(folder):
        both.wait()
        return make(folder)

    with Cache(root) as store:
        found = in_threads(*[lambda i=i: store.step("k", "x", {"i": i}, meet) for i in range(2)])
        assert [entry.reused for entry in found] == [False, False]
        assert len(store.entries()) == 2


def test_a_step_that_asks_for_itself_is_refused_instead_of_waiting_for_ever(root):
    def nested(store):
        return lambda folder: {"n": store.step("k", "x", PARTS, make).value}

    with Cache(root) as store, Cache(root) as second:
        for other in (store, second):
            (error,) = in_threads(lambda other=other: store.step("k", "x", PARTS, nested(other)))
            assert isinstance(error, UsageError) and "waits for itself" in str(error), error
        (error,) = in_threads(lambda: store.step("k", "x", PARTS, lambda folder: store.forget("k", PARTS)))
        assert isinstance(error, UsageError)
        found = store.step("k", "outer", {"i": 1}, lambda folder: {"inner": second.step("k", "x", {"i": 2}, make).value["n"]})
        assert found.value == {"inner": 1}


def test_closing_ends_the_waiting(root):
    started, end = threading.Event(), threading.Event()
    store, other = Cache(root), Cache(root)

    def long(folder):
        started.set()
        assert end.wait(60)
        return make(folder)

    def wait_and_close():
        assert started.wait(60)
        waiting = threading.Thread(target=lambda: time.sleep(0.3) or other.close())
        waiting.start()
        try:
            return other.step("k", "x", PARTS, never)
        finally:
            waiting.join()
            end.set()

    made, error = in_threads(lambda: store.step("k", "x", PARTS, long), wait_and_close)
    assert made.reused is False
    assert isinstance(error, EdgewrightError) and "by this process: waiting for it was given up" in str(error)
    store.close()


# --- damage --------------------------------------------------------------------------------------------------------------


def edit(name, change):
    def damage(folder):
        file = folder / name
        file.write_bytes(change(file.read_bytes()))

    return damage


def edit_record(**changes):
    def damage(folder):
        file = folder / "entry.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return damage


DAMAGES = {
    "one bit flipped": edit("sub/file.txt", lambda data: bytes([data[0] ^ 1]) + data[1:]),
    "truncated": edit("other.bin", lambda data: data[:-1]),
    "emptied": edit("other.bin", lambda data: b""),
    "longer": edit("other.bin", lambda data: data + b"\0"),
    "a file removed": lambda folder: (folder / "other.bin").unlink(),
    "a folder in place of a file": lambda folder: ((folder / "other.bin").unlink(), (folder / "other.bin").mkdir()),
    "no record": lambda folder: (folder / "entry.json").unlink(),
    "empty record": edit("entry.json", lambda data: b""),
    "truncated record": edit("entry.json", lambda data: data[: len(data) // 2]),
    "binary record": edit("entry.json", lambda data: b"\xff\xfe\0"),
    "a list": edit("entry.json", lambda data: b"[]"),
    "a number": edit("entry.json", lambda data: b"7"),
    "deeply nested": edit("entry.json", lambda data: b"[" * 100_000),
    "another value": edit_record(value={"n": 2}),
    "no files": edit_record(files=None),
    "a list of files": edit_record(files=["a"]),
    "another schema": edit_record(schema=2),
    "a field of the record changed": edit("entry.json", lambda data: data.replace(b'"n": 1', b'"n": 7')),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_entry_is_done_again(root, damage, caplog):
    with Cache(root) as store:
        entry = store.step("k", "x", PARTS, make)
        other = store.step("k", "other", {"i": 2}, make)
        damage(entry.folder)
        assert store.find("k", PARTS) is None
        assert caplog.records == []
        again = store.step("k", "x", PARTS, lambda folder: make(folder, "new"))
        assert again.reused is False and again.value == {"n": 1}
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "damaged" in caplog.text and str(entry.folder) in caplog.text
        assert files_in(again.folder) == ["entry.json", "other.bin", "sub/file.txt"]
        assert store.step("k", "x", PARTS, never).files == again.files
        assert store.step("k", "other", {"i": 2}, never).files == other.files


def test_an_entry_in_the_place_of_another_is_not_taken_for_it(root):
    with Cache(root) as store:
        one, two = (store.step("k", "x", {"i": i}, lambda folder, i=i: make(folder, str(i))) for i in range(2))
        shutil.rmtree(two.folder)
        shutil.copytree(one.folder, two.folder)
        assert store.find("k", {"i": 1}) is None
        assert (store.step("k", "x", {"i": 1}, lambda folder: make(folder, "1")).folder / "sub/file.txt").read_text() == "1"


def test_files_that_others_put_there_do_no_harm(root):
    with Cache(root) as store:
        entry = store.step("k", "x", PARTS, make)
        (root / "entries" / ".DS_Store").write_bytes(b"x")
        (entry.folder.parent / "stray").write_bytes(b"x")
        (root / "making" / "stray").write_bytes(b"x")
        (entry.folder / "notes.txt").write_bytes(b"x")
    with Cache(root) as store:
        assert [one.what for one in store.entries()] == ["x"]
        assert store.step("k", "x", PARTS, never).files == entry.files


def test_a_cache_that_is_removed_while_it_is_open(root):
    with Cache(root) as store:
        store.step("k", "x", PARTS, make)
        shutil.rmtree(root)
        assert store.entries() == [] and store.size_bytes() == 0
        assert store.step("k", "x", PARTS, make).reused is False
        assert store.step("k", "x", PARTS, never).reused is True


# --- disks that refuse ---------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path):
    """A file system of 128 KiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fills(folder):
    (folder / "large.bin").write_bytes(bytes(1 << 20))
    return {}


def test_full_disk(tiny):
    with Cache(tiny / "cache") as store:
        store.step("k", "small", {"i": 1}, make)
        for parts in (PARTS, None):
            with pytest.raises(ArtifactError, match="no space left on device") as caught:
                store.step("k", "x", parts, fills)
            assert str(tiny) in str(caught.value) and "EDGEWRIGHT_CACHE" in caught.value.hint
            assert len(store.entries()) == 1 and nothing_left(store.root)
        filler = tiny / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(1 << 20))
        with pytest.raises(ArtifactError, match="no space left on device"):
            store.step("k", "x", PARTS, lambda folder: {"long": "x" * 5000})
        assert len(store.entries()) == 1 and nothing_left(store.root)
    with Cache(tiny / "cache") as store:
        assert store.step("k", "small", {"i": 1}, never).reused, "what is finished can be used though the disk is full"
        filler.unlink()
        store.step("k", "x", PARTS, make)


def test_read_only_file_system(tiny):
    with Cache(tiny / "cache") as store:
        store.step("k", "x", PARTS, make)
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    for folder in (tiny / "cache", tiny / "new"):
        with pytest.raises(ArtifactError, match="read-only file system") as caught:
            Cache(folder)
        assert str(folder) in caught.value.message and "EDGEWRIGHT_CACHE" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_rights(root):
    with Cache(root):
        pass
    for folder in (root, root / "locks", root / "making"):
        folder.chmod(0o500)
    try:
        with pytest.raises(ArtifactError, match="permission denied"), Cache(root) as store:
            store.step("k", "x", PARTS, make)
    finally:
        for folder in (root, root / "locks", root / "making"):
            folder.chmod(0o700)


@pytest.mark.parametrize("name", ["", "locks", "making", "entries"])
def test_a_file_where_a_folder_is_to_be(root, name):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(b"")
    with pytest.raises(ArtifactError, match="cannot be used") as caught:
        Cache(root)
    assert str(root) in caught.value.message and "EDGEWRIGHT_CACHE" in caught.value.hint


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_a_full_disk_that_names_no_file(root):
    def fills(folder):
        with Path("/dev/full").open("wb", buffering=0) as file:
            return {"n": file.write(b"x")}

    with Cache(root) as store, pytest.raises(ArtifactError, match="no space left on device"):
        store.step("k", "x", PARTS, fills)


def test_errors_about_other_files_are_not_blamed_on_the_cache(root, tmp_path):
    with Cache(root) as store:
        for parts in (PARTS, None):
            with pytest.raises(FileNotFoundError, match=r"samples\.npz"):
                store.step("k", "x", parts, lambda folder: {"n": (tmp_path / "samples.npz").read_bytes()})
            with pytest.raises(OSError, match="handshake"):
                store.step("k", "x", parts, lambda folder: (_ for _ in ()).throw(OSError("handshake failed")))
        assert nothing_left(root)


def test_file_systems_without_locks(root, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ArtifactError, match="operation not supported"):
        Cache(root)


# --- listing and clearing ------------------------------------------------------------------------------------------------


def test_entries_are_sorted_by_use(root):
    with Cache(root) as store:
        for index in range(3):
            entry = store.step("k", f"step {index}", {"i": index}, make)
            os.utime(entry.folder, (1000 + index, 1000 + index))
        assert [entry.what for entry in store.entries()] == ["step 2", "step 1", "step 0"]
        store.step("k", "step 1", {"i": 1}, never)
        assert [entry.what for entry in store.entries()] == ["step 1", "step 2", "step 0"]
        listed = store.entries()[1].to_json()
        assert listed == {
            "kind": "k",
            "what": "step 2",
            "folder": str(entry.folder),
            "seconds": entry.seconds,
            "bytes": 260,
            "files": ["other.bin", "sub/file.txt"],
            "used": "1970-01-01T00:16:42+00:00",
        }


def test_size(root):
    with Cache(root) as store:
        empty = store.size_bytes()
        entry = store.step("k", "x", PARTS, make)
        assert store.size_bytes() == empty + 260 + (entry.folder / "entry.json").stat().st_size


def test_clear(root):
    with Cache(root) as store:
        sizes = []
        for index in range(3):
            entry = store.step("k", f"step {index}", {"i": index}, make)
            os.utime(entry.folder, (time.time() - 1000 * index,) * 2)
            sizes.append(260 + (entry.folder / "entry.json").stat().st_size)
        assert store.clear(5000) == (0, 0)
        assert store.clear(1500) == (1, sizes[2])
        assert [entry.what for entry in store.entries()] == ["step 0", "step 1"]
        assert store.clear() == (2, sum(sizes[:2]))
        assert store.entries() == [] and store.clear() == (0, 0)
        assert store.step("k", "x", PARTS, make).reused is False, "the cache can be used after it was cleared"
        damaged = store.step("k", "x", {"i": 7}, make).folder
        (damaged / "entry.json").unlink()
        assert store.clear()[0] == 2, "damaged ones are removed, too"
        assert nothing_left(root)


def test_clear_is_refused_while_others_use_the_cache(root, child):
    with Cache(root) as store:
        store.step("k", "x", PARTS, make)
        first, second = child("opened"), child("opened")
        with pytest.raises(UsageError) as caught:
            store.clear()
        assert caught.value.message == f"the cache is in use by process {first.pid} and {second.pid}"
        first.kill()
        first.wait()
        with pytest.raises(UsageError, match=rf"in use by process {second.pid} "):
            store.clear()
        assert len(store.entries()) == 1
        assert second.communicate("\n")[0] == "reused\n"
        assert child(deed="clear").communicate()[0].startswith(f"the cache is in use by process {os.getpid()} ("), (
            "a clear that was refused has not let go of the cache"
        )
        with Cache(root), pytest.raises(UsageError, match="in use by this process"):
            store.clear()
        assert store.clear()[0] == 1


def test_clear_lets_steps_of_this_cache_finish(root):
    started, cleared = threading.Event(), threading.Event()

    def long(folder):
        started.set()
        assert cleared.wait(60)
        return make(folder)

    def clear():
        assert started.wait(60)
        try:
            return store.clear()
        finally:
            cleared.set()

    with Cache(root) as store:
        store.step("k", "old", {"i": 1}, make)
        made, removed = in_threads(lambda: store.step("k", "x", PARTS, long), clear)
        assert removed[0] == 1
        assert made.reused is False and store.step("k", "x", PARTS, never)


def test_opening_waits_for_clear(root, child):
    with Cache(root):
        pass
    with lock_file(root / "locks" / "cache", wait=False):
        shutil.rmtree(root / "making")
        process = child()
        assert process.stderr.readline() == f"the cache is being cleared by process {os.getpid()}: waiting for it\n"
    assert process.communicate()[0] == "made\n"


# --- keys ----------------------------------------------------------------------------------------------------------------

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=8
)
parts = st.dictionaries(st.text(), values, max_size=5)


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(item) for key, item in reversed(list(value.items()))}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None)
@given(parts)
def test_the_order_of_keys_does_not_matter(given_parts):
    assert module._key("k", given_parts) == module._key("k", reversed_keys(given_parts))
    assert module._key("k", json.loads(json.dumps(given_parts))) == module._key("k", given_parts)


@settings(deadline=None)
@given(parts, st.text(), values, values)
def test_any_change_changes_the_key(given_parts, name, old, new):
    before, after = {**given_parts, name: old}, {**given_parts, name: new}
    same = json.dumps(reversed_keys(before), sort_keys=True) == json.dumps(after, sort_keys=True)
    assert (module._key("k", before) == module._key("k", after)) == same
    assert module._key("k", before) != module._key("other", before)
    without = {key: value for key, value in before.items() if key != name}
    assert module._key("k", before) != module._key("k", without)


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), (0, False), ("1", 1), (None, "null"), ([], {}), ("a", "A")])
def test_what_python_or_people_take_for_equal_are_different_keys(one, other):
    assert module._key("k", {"a": one}) != module._key("k", {"a": other})


def test_order_in_lists_matters():
    assert module._key("k", {"a": [1, 2]}) != module._key("k", {"a": [2, 1]})


# --- digest of the code, place of the cache -----------------------------------------------------------------------------


def test_code_digest_follows_the_source(tmp_path):
    package = tmp_path / "edgewright"
    (package / "stage").mkdir(parents=True)
    for name in ("cache.py", "artifact.py", "errors.py"):
        shutil.copy(Path(module.__file__).with_name(name), package / name)
    for name in ("__init__.py", "stage/__init__.py", "stage/work.py", "stage/recipe.toml"):
        (package / name).write_text("")

    def digests():
        code = "from edgewright.cache import code_digest as d; print(d(), d('stage'), d('stage/work', 'errors'), d('errors'))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
        return done.stdout.split()

    before = digests()
    assert len(set(before)) == 4
    assert digests() == before, "compiled files do not count"
    (package / "stage" / "work.py").write_text("x = 1\n")
    after = digests()
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, True, True, False]
    (package / "stage" / "recipe.toml").write_text("x = 1\n")
    assert [a != b for a, b in zip(after, digests(), strict=True)] == [True, True, False, False]
    (package / "stage" / "recipe.toml").write_text("")
    (package / "stage" / "work.py").rename(package / "stage" / "works.py")
    (package / "stage" / "work.py").write_text("")
    assert digests()[1] != before[1], "a file more is other code"


def test_code_digest_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no module or sub-package 'convertors'"):
        code_digest("artifact", "convertors")


def test_default_root(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("EDGEWRIGHT_CACHE", "")
    assert default_root() == tmp_path / ".cache" / "edgewright"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_root() == tmp_path / "xdg" / "edgewright"
    monkeypatch.setenv("EDGEWRIGHT_CACHE", "~/mine")
    assert default_root() == tmp_path / "mine"
    monkeypatch.setenv("EDGEWRIGHT_CACHE", "here")
    monkeypatch.chdir(tmp_path)
    with Cache() as store:
        assert store.root == tmp_path / "here"
        monkeypatch.chdir("/")
        assert store.step("k", "x", PARTS, make).folder.is_relative_to(tmp_path / "here")
