"""What lies in our folder on a board: runtimes, and models in numbered slots. Runs there, with the board's Python alone.

    python -c SOURCE REQUEST

REQUEST is JSON with a "verb" and its arguments; one line of JSON is the answer. Everything that others read appears whole, by
a rename: a process that is killed anywhere leaves either the old state or the new one, and the next one sweeps up.

    FOLDER/runtime/DIGEST/  packages/DIGEST/      our code and wheels, unpacked; `current` leads to the one chosen last
    FOLDER/models/NAME/slots/0001-SHA8/           a model with its golden vectors and slot.json
    FOLDER/models/NAME/current                    symbolic link to a slot: the version that runs
    FOLDER/models/NAME/history.jsonl              what was switched to, by whom, when
    FOLDER/models/NAME/incoming/  intent.json     half-way things
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODULES = ("numpy", "ai_edge_litert", "tflite_runtime", "openvino", "onnxruntime")
KINDS = ("runtime", "packages")
RUNTIMES_KEPT = 2


class Refused(Exception):
    """What was asked for cannot be done; the hint says what can."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def survey(folder: str) -> dict[str, Any]:
    """The Python and the machine that this runs on, the space around a folder, the runtimes in it."""
    root = Path(folder)
    libc, version = platform.libc_ver()
    if hasattr(sys, "getandroidapilevel"):
        libc, version = "android", str(sys.getandroidapilevel())
    elif not libc and any(Path("/lib").glob("ld-musl-*")):
        libc, version = "musl", "1.2"
    machine = platform.machine()
    if sys.maxsize < 2**32:  # a 32-bit system on a 64-bit kernel
        machine = {"aarch64": "armv7l", "x86_64": "i686"}.get(machine, machine)
    there = next(path for path in (root, *root.parents) if path.is_dir())
    runtimes = {kind: {"current": pointed(root / kind / "current"), "there": folders(root / kind)} for kind in KINDS}
    sys.path.insert(0, str(root / "packages" / str(runtimes["packages"]["current"])))
    return {
        "python": list(sys.version_info[:3]),
        "machine": machine,
        "libc": [libc, version],
        "free_bytes": shutil.disk_usage(there).free,
        "used_bytes": sum(file.lstat().st_size for file in root.rglob("*")),
        "modules": [name for name in MODULES if importlib.util.find_spec(name) is not None],
        **runtimes,
    }


def install(folder: str, kind: str, digest: str, source: str, files: dict[str, str]) -> dict[str, Any]:
    """Unpack wheels into the folder of their digest; it gets its name when all are whole."""
    target, half = Path(folder, kind, digest), Path(source, "unpacked")
    if target.is_dir():
        return {"there": True}
    for name, wanted in files.items():
        path = Path(source, name)
        if (found := sha256(path)) != wanted:
            raise Refused(f"{path} has sha256 {found[:16]}, expected is {wanted[:16]}", "run it again")
        with zipfile.ZipFile(path) as archive:
            archive.extractall(half)
        path.unlink()
    for extra in half.glob("*.data/*lib"):  # purelib, platlib: belong beside the rest
        shutil.copytree(extra, half, dirs_exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.sync()
    half.rename(target)
    return {"there": False}


def choose(folder: str, chosen: dict[str, str]) -> dict[str, Any]:
    """Make runtimes the current ones; those that no slot needs go, but for the last two."""
    for kind, digest in chosen.items():
        os.utime(Path(folder, kind, digest))
        point(Path(folder, kind, "current"), digest)
    return {"removed": sweep_runtimes(Path(folder))}


def sweep_runtimes(root: Path) -> list[str]:
    """Remove the runtimes that no slot needs, but for the last two of each kind."""
    records = [slot for name in folders(root / "models") for slot in slots_of(root / "models" / name).values()]
    removed = []
    for kind in KINDS:
        home = root / kind
        needed = {slot.get(kind) for slot in records} | {pointed(home / "current")}
        by_age = sorted(folders(home), key=lambda name: (home / name).stat().st_mtime)
        shutil.rmtree(home / ".old", ignore_errors=True)
        for name in by_age[:-RUNTIMES_KEPT]:
            if name not in needed:  # by a rename first: what is half removed must not look whole
                (home / name).rename(home / ".old")
                shutil.rmtree(home / ".old", ignore_errors=True)
                removed.append(f"{kind}/{name}")
    return removed


def begin(folder: str, name: str, sha: str) -> dict[str, Any]:
    """Sweep up what a killed deploy has left of a model, and make the folder that its next slot comes into."""
    home = Path(folder, "models", name)
    (home / "slots").mkdir(parents=True, exist_ok=True)
    sweep(home)
    numbers = [number_of(slot) for slot in (*slots_of(home), *(str(entry.get("slot")) for entry in history(home)))]
    slot = f"{max(numbers, default=0) + 1:04d}-{sha[:8]}"
    half = home / "incoming" / slot
    half.mkdir(parents=True)
    return {"slot": slot, "path": str(half), "current": running(home)}


def running(home: Path) -> dict[str, Any] | None:
    """The record of the current slot, of its files those alone that are still what it says."""
    now = pointed(home / "current")
    record = slots_of(home).get(now)
    if record is None:
        return None
    paths = {file: home / "slots" / now / file for file in record.get("files", {})}
    whole = {file: sha256(path) for file, path in paths.items() if path.is_file()}
    return {**record, "files": {file: digest for file, digest in whole.items() if record["files"][file] == digest}}


def abandon(folder: str, name: str) -> dict[str, Any]:
    """Remove what has come in and is not to be a slot."""
    shutil.rmtree(Path(folder, "models", name, "incoming"), ignore_errors=True)
    return {}


def commit(folder: str, name: str, slot: str, record: dict[str, Any], entry: dict[str, Any], keep: int) -> dict[str, Any]:
    """Check what has come in, make it a slot, switch to it, write that down, and remove slots that are too old."""
    home = Path(folder, "models", name)
    half = home / "incoming" / slot
    require_files(half, record["files"])
    write(half / "slot.json", json.dumps({**record, "slot": slot}, indent=2) + "\n")
    os.sync()
    half.rename(home / "slots" / slot)
    switched = switch(folder, name, slot, entry)
    return {**switched, "removed": prune(home, keep), "removed_runtimes": sweep_runtimes(Path(folder))}


def renew(
    folder: str, name: str, slot: str, source: str, golden: str, record: dict[str, Any], entry: dict[str, Any]
) -> dict[str, Any]:
    """Give the current slot the golden vectors that have come in, once they were computed with its model, and write that down.

    Killed in between, vectors and record do not fit each other: `running` leaves them out, and the next deploy brings them.
    """
    home = Path(folder, "models", name)
    half, target = home / "incoming" / source, home / "slots" / slot
    require_files(half, {golden: record["files"][golden]})
    os.sync()
    (half / golden).replace(target / golden)
    write(target / "slot.json", json.dumps({**slots_of(home)[slot], **record}, indent=2) + "\n")
    abandon(folder, name)
    return switch(folder, name, slot, entry)


def require_files(folder: Path, files: dict[str, str]) -> None:
    """Refuse files that are missing or have another sha256 than they should."""
    for file, wanted in files.items():
        found = sha256(folder / file) if (folder / file).is_file() else "none, it is missing"
        if found != wanted:
            raise Refused(f"{file} has sha256 {found[:19]} there, expected is {wanted[:16]}", "deploy again")


def switch(folder: str, name: str, slot: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Make a slot the current one; the history gets its line even if this is killed in between, by the next call."""
    home = Path(folder, "models", name)
    if slot not in slots_of(home):
        raise Refused(f"there is no slot {slot} of {name}", f"known: {', '.join(slots_of(home))}")
    before = pointed(home / "current")
    write(home / "intent.json", json.dumps({**entry, "slot": slot, "from": before}))
    point(home / "current", f"slots/{slot}")
    settle(home)
    return {"slot": slot, "from": before, "path": str(home / "slots" / slot)}


def target(folder: str, name: str, to: int | None) -> dict[str, Any]:
    """The slot that a rollback goes to: of a number, or the one that ran before the current one."""
    home = Path(folder, "models", name)
    there, now = slots_of(home), pointed(home / "current")
    if not now:
        raise _not_deployed(Path(folder), name)
    settle(home)
    if to is not None:
        found = [slot for slot in there if number_of(slot) == to]
        if not found:
            raise Refused(f"{name} has no slot {to}", f"there are: {', '.join(str(number_of(slot)) for slot in there)}")
    else:
        found = [slot for slot in reversed(earlier(home)) if slot in there][:1]
        if not found:
            raise Refused(
                f"{name} has no earlier version than slot {now}", "deploy the older file again, or name a slot with --to"
            )
    if found[0] == now:
        raise Refused(f"slot {now} of {name} runs already", "name another one with --to")
    return {"path": str(home / "slots" / found[0]), "record": there[found[0]], "current": now}


def listing(folder: str, name: str | None) -> dict[str, Any]:
    """Models with their current slot, all slots and the history; of one model or of all."""
    models = {}
    for one in folders(Path(folder, "models")):
        home = Path(folder, "models", one)
        if name in (None, one) and pointed(home / "current"):
            settle(home)
            slots = slots_of(home)
            models[one] = {
                "current": slots.get(pointed(home / "current")),
                "path": str(home / "current"),
                "slots": list(slots.values()),
                "history": history(home),
            }
    if name is not None and name not in models:
        raise _not_deployed(Path(folder), name)
    return {"models": models}


def _not_deployed(root: Path, name: str) -> Refused:
    known = [one for one in folders(root / "models") if pointed(root / "models" / one / "current")]
    return Refused(f"no model '{name}' is deployed there", f"known: {', '.join(known) or 'none'}")


def sweep(home: Path) -> None:
    """Finish the history of a switch that was killed, and remove what is half-way."""
    settle(home)
    shutil.rmtree(home / "incoming", ignore_errors=True)
    for half in (*home.glob("*.new"), *home.glob("slots/*/*.new")):
        half.unlink()
    ran = {entry.get("slot") for entry in history(home)} | {pointed(home / "current")}
    for slot in folders(home / "slots"):
        if slot not in ran:  # came in whole, but was never switched to
            shutil.rmtree(home / "slots" / slot, ignore_errors=True)


def settle(home: Path) -> None:
    """Write the switch that was meant into the history if it has taken place and is not there yet."""
    intent = home / "intent.json"
    if not intent.exists():
        return
    with contextlib.suppress(OSError, ValueError, KeyError):
        entry = json.loads(intent.read_text(encoding="utf-8"))
        done = pointed(home / "current") == entry["slot"]
        if done and entry["mark"] not in [one.get("mark") for one in history(home)]:
            append(home / "history.jsonl", json.dumps(entry))
    intent.unlink()


def prune(home: Path, keep: int) -> list[str]:
    """Remove the oldest slots but for `keep`: the current one, the one before, then the newest."""
    there = list(slots_of(home))
    before = [slot for slot in reversed(earlier(home)) if slot in there][:1]
    removed = list(dict.fromkeys([pointed(home / "current"), *before, *reversed(there)]))[keep:]
    (home / "incoming").mkdir(exist_ok=True)
    for slot in removed:  # by a rename first, as above
        (home / "slots" / slot).rename(home / "incoming" / slot)
    shutil.rmtree(home / "incoming", ignore_errors=True)
    return sorted(removed)


def earlier(home: Path) -> list[str]:
    """The slots that ran before the current one, oldest first.

    A rollback takes the slots behind its target out: rolling back twice goes back two versions, not to and fro.
    """
    ran: list[str] = []
    for entry in history(home):
        slot = str(entry.get("slot"))
        ran = [*(ran[: ran.index(slot)] if slot in ran else ran), slot]
    now = pointed(home / "current")
    return ran[: ran.index(now)] if now in ran else ran


def slots_of(home: Path) -> dict[str, dict[str, Any]]:
    """The records of all whole slots, by their names, in the order of their numbers."""
    found = {}
    for slot in folders(home / "slots"):
        with contextlib.suppress(OSError, ValueError):
            found[slot] = json.loads((home / "slots" / slot / "slot.json").read_text(encoding="utf-8"))
    return dict(sorted(found.items(), key=lambda item: number_of(item[0])))


def number_of(slot: str) -> int:
    """A slot's number: what its name begins with."""
    head = slot.partition("-")[0]
    return int(head) if head.isdigit() else 0


def history(home: Path) -> list[dict[str, Any]]:
    """All lines that are whole; a power cut may have torn one."""
    entries = []
    with contextlib.suppress(OSError):
        for line in (home / "history.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
    return [entry for entry in entries if isinstance(entry, dict)]


def append(path: Path, line: str) -> None:
    """Add a line by one write; behind a torn line it begins a new one."""
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, (("\n" if torn else "") + line + "\n").encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    new = path.with_name(path.name + ".new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def point(link: Path, to: str) -> None:
    """Have a name lead to something else, in one step; a text file does it where there are no symbolic links."""
    new = link.with_name(f".{link.name}.new")
    with contextlib.suppress(FileNotFoundError):
        new.unlink()
    try:
        new.symlink_to(to)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        write(new, to)
    new.replace(link)
    handle = os.open(link.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def pointed(link: Path) -> str:
    """The last part of what a name leads to; empty if there is none."""
    with contextlib.suppress(OSError):
        return Path(str(link.readlink()) if link.is_symlink() else link.read_text(encoding="utf-8").strip()).name
    return ""


def folders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; links and hidden ones are none."""
    with contextlib.suppress(OSError):
        return sorted(one.name for one in path.iterdir() if one.is_dir() and not one.is_symlink() and one.name[0] != ".")
    return []


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


VERBS: dict[str, Callable[..., dict[str, Any]]] = {
    verb.__name__: verb for verb in (survey, install, choose, begin, abandon, commit, renew, switch, target, listing)
}


def main(request: dict[str, Any]) -> int:
    """Answer one request, one at a time: a host that died may have left one running; the exit code."""
    verb = VERBS[request.pop("verb")]
    code = 1
    try:
        with contextlib.ExitStack() as stack:
            if verb is not survey:
                Path(request["folder"]).mkdir(parents=True, exist_ok=True)
                handle = stack.enter_context(Path(request["folder"], "slots.lock").open("a"))
                fcntl.flock(handle, fcntl.LOCK_EX)
            answer, code = verb(**request), 0
    except Refused as refused:
        answer = {"error": str(refused), "hint": refused.hint}
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        answer = {"error": str(error), "hint": "free space there" if full else "check the rights of our folder there"}
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
