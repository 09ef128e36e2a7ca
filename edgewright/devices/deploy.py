"""Put a model on a board as its next version, go back to an earlier one, and tell what runs there.

A version is a numbered slot. It comes in beside the one that runs, is checked there by sha256, computes its golden vectors
there, and only then one rename of a symbolic link makes it the current one: whatever is killed, and wherever, one whole
version is current. What is half-way is removed by the next deploy. The version that runs, deployed once more, is verified
again; other golden vectors take the place of its own once it has computed them.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgewright.artifact import file_digest, file_sha256, files_of, sidecar_of
from edgewright.devices.device import Device, here
from edgewright.devices.packages import how_to_get
from edgewright.devices.programs import last_json
from edgewright.devices.pushing import Progress, Shares, space_check
from edgewright.errors import DeviceError, EdgewrightError, UsageError, VerificationError
from edgewright.version import __version__

__all__ = ["KEEP", "deploy", "deployed", "require_name", "rollback"]

KEEP = 3
"""Versions of a model that stay on a board."""

GOLDEN_TIMEOUT_S = 600.0
_VERIFICATION_FAILED = VerificationError.exit_code
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def deploy(
    device: Device,
    model: Path,
    golden: Path,
    *,
    name: str,
    engine: str | None = None,
    wheels: Path | None = None,
    keep: int = KEEP,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make a model the current version of its name on a board, after it has computed its golden vectors there.

    Args:
        device: the board, open and held.
        model: a .tflite, .onnx or OpenVINO .xml file; its weights and its artifact.json go with it.
        golden: its golden vectors, made here.
        name: of the model on the board.
        engine: that runs it there; None takes the format's own.
        wheels: see `Device.ensure_runtime`.
        keep: versions that stay there, this one among them.
        progress: called with a share between 0 and 1 and a text.

    Returns:
        `name`, `slot`, `from` (the slot that ran before), `path`, `model` (the file there, through the link that always
        leads to the current version), `unchanged` (its files ran already and were verified again), `new_golden` (by other
        golden vectors than lay there, which were pushed and stay), `golden`, `runtime`, `packages`, `sha256`, `removed` (old
        slots).

    Raises:
        VerificationError: the board computes something else; the version that ran before runs on.
        DeviceError: too little space, no NumPy or engine there, a file arrived changed, or the connection broke.
        UsageError: the name cannot be a folder's, or `keep` is below 1.
    """
    require_name(name)
    if keep < 1:
        raise UsageError(f"keep is {keep}, at least the version that is deployed must stay", hint=f"leave it out to keep {KEEP}")
    files = _files(model, golden)
    record: dict[str, Any] = {
        "model": model.name,
        "golden": golden.name,
        "sha256": file_sha256(model),
        "bytes": sum(file.stat().st_size for file in files),
        "files": {file.name: file_digest(file) for file in files},
        "engine": engine,
        "version": __version__,
    }
    device.survey()  # refuses a Python that is too old for what follows
    begun = _ask(device, "begin", timeout_s=600, name=name, sha=record["sha256"])
    now = begun["current"] or {}
    differing = {file for file, _ in record["files"].items() ^ now.get("files", {}).items()}
    there = differing <= {golden.name} and all(now.get(key) == record[key] for key in ("model", "engine"))
    missing = files if not there else [golden] if differing else []
    try:
        _need_space(device, missing, model.name)  # before the runtime is brought
        device.ensure_runtime(wheels, progress)
        record |= device.runtime
        if there and all(now.get(kind) == record[kind] for kind in device.runtime):
            return _verify_again(device, name, record, begun, missing, progress)
        _need_space(device, files, model.name)
        _push(device, files, begun["path"], progress)
        checked = _compute(device, begun["path"], record, progress)
    except BaseException:
        with suppress(EdgewrightError):
            _ask(device, "abandon", name=name)
        raise
    entry = _entry("deploy", record, checked)
    record |= {key: entry[key] for key in ("when", "user", "host")}
    done = _ask(device, "commit", timeout_s=600, name=name, slot=begun["slot"], record=record, entry=entry, keep=keep)
    return _answer(device, name, record, checked, slot=done["slot"], came_from=done["from"], removed=done["removed"])


def rollback(device: Device, name: str, to: int | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """Make an earlier version current again, after it has computed its golden vectors with the runtime that it came with.

    Args:
        device: the board, open and held.
        name: of the model.
        to: number of the slot; None takes the one that ran before.
        progress: called with a share between 0 and 1 and a text.

    Returns:
        As `deploy`.

    Raises:
        VerificationError: it does not compute what it did; the current version runs on.
        DeviceError: there is no such model, slot or earlier version, or the connection broke.
    """
    require_name(name)
    found = _ask(device, "target", name=name, to=to)
    record = found["record"]
    kinds = {kind: str(record.get(kind, "")) for kind in ("runtime", "packages")}
    if all(digest in ("", *device.survey()[kind]["there"]) for kind, digest in kinds.items()) and kinds["runtime"]:
        device.use_runtime(**kinds)
    else:  # somebody has removed it by hand
        record = {**record, **_runtime_of_now(device, progress)}
    checked = _compute(device, found["path"], record, progress)
    done = _ask(device, "switch", name=name, slot=record["slot"], entry=_entry("rollback", record, checked))
    return _answer(device, name, record, checked, slot=done["slot"], came_from=done["from"])


def deployed(device: Device, name: str | None = None) -> dict[str, Any]:
    """What runs on a board: `models`, each with its current slot, the slots that are there, and its history.

    Raises:
        DeviceError: there is no model of this name.
    """
    if name is not None:
        require_name(name)
    return _ask(device, "listing", name=name)


def require_name(name: str) -> None:
    """Refuse a name that is no plain folder's name.

    Raises:
        UsageError: it is empty, too long, or has other characters than letters, digits, ".", "_", "-".
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot be a model's name on a board: letters, digits, '.', '_' and '-' can, 64 of them at most",
            hint="name it with --name",
        )


def _files(model: Path, golden: Path) -> list[Path]:
    """What goes into a slot."""
    sidecar = sidecar_of(model)
    return [*files_of(model), *([sidecar] if sidecar.is_file() else []), golden]


def _ask(device: Device, verb: str, *, timeout_s: float = 60.0, **request: Any) -> dict[str, Any]:
    return device.script("slots", {"verb": verb, "folder": device.folder, **request}, timeout_s=timeout_s)


def _verify_again(
    device: Device,
    name: str,
    record: Mapping[str, Any],
    begun: Mapping[str, Any],
    vectors: list[Path],
    progress: Progress | None,
) -> dict[str, Any]:
    """Have the version that runs compute its golden vectors; others than its own are pushed first, and stay if it does."""
    slot = begun["current"]["slot"]
    home = f"{device.folder}/models/{name}/slots/{slot}"
    _push(device, vectors, begun["path"], progress)
    checked = _compute(device, home, record, progress, begun["path"] if vectors else home)
    if vectors:
        what = {"name": name, "slot": slot, "source": begun["slot"], "golden": record["golden"]}
        changed = {key: record[key] for key in ("files", "bytes")}
        _ask(device, "renew", timeout_s=600, **what, record=changed, entry=_entry("verify", record, checked))
    else:
        with suppress(DeviceError):
            _ask(device, "abandon", name=name)
    return _answer(device, name, record, checked, slot=slot, came_from=slot, unchanged=True, new_golden=bool(vectors))


def _need_space(device: Device, files: list[Path], what: str) -> None:
    if files:
        space_check(device.board, device.survey(), sum(file.stat().st_size for file in files), what)


def _push(device: Device, files: list[Path], folder: str, progress: Progress | None) -> None:
    tell = Shares(progress, sum(file.stat().st_size for file in files))
    for file in files:
        device.transport.push(file, f"{folder}/{file.name}", progress=tell.next(file))


def _runtime_of_now(device: Device, progress: Progress | None) -> dict[str, str]:
    device.ensure_runtime(progress=progress)
    return device.runtime


def _compute(
    device: Device, folder: str, record: Mapping[str, Any], progress: Progress | None, vectors: str = ""
) -> dict[str, Any]:
    """Have the board's engine compute golden vectors, the slot's own or those in `vectors`; what it tells of them.

    Raises:
        VerificationError: they differ.
        DeviceError: the engine is missing or refuses the model.
    """
    if progress:
        progress(1.0, f"computing golden vectors on {device.board.name}")
    golden = f"{vectors or folder}/{record['golden']}"
    words = ["-m", "edgewright.runtime", "selftest", f"{folder}/{record['model']}", "--golden", golden]
    words += ["--engine", str(record["engine"])] if record.get("engine") else []
    done = device.python([*words, "--json"], timeout_s=GOLDEN_TIMEOUT_S)
    found = last_json(done.stdout)
    if done.code == 0 and found is not None:
        return dict(found["golden"])
    failure = device.failure(done, f"run {record['model']}")
    if done.code == _VERIFICATION_FAILED:
        raise VerificationError(failure.message, failure.hint)
    if "pip install" in failure.hint:  # the board's own words, but it may have no internet
        survey = device.survey()
        raise DeviceError(failure.message, hint=f"pass --wheels DIR with what '{how_to_get(survey)}' brings there")
    raise failure


def _entry(action: str, record: Mapping[str, Any], checked: Mapping[str, Any]) -> dict[str, Any]:
    """A line of the history; its mark tells it from any other. Times are this machine's: many boards have no clock."""
    return {
        "mark": secrets.token_hex(8),
        "action": action,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **here(),
        "model": record["model"],
        "sha256": record["sha256"],
        "runtime": record.get("runtime", ""),
        "packages": record.get("packages", ""),
        "version": record.get("version", ""),
        "golden": _summary(checked),
    }


def _summary(checked: Mapping[str, Any]) -> dict[str, Any]:
    """What of a comparison is kept: how many inferences, by what, and the largest difference of each output."""
    return {
        "passed": checked["passed"],
        "calls": checked["calls"],
        "source": checked["source"],
        "library": checked["library"],
        "precision": checked["execution"]["precision"],
        "outputs": [{key: row[key] for key in ("name", "equal", "difference", "rule")} for row in checked["outputs"]],
    }


def _answer(
    device: Device,
    name: str,
    record: Mapping[str, Any],
    checked: Mapping[str, Any],
    *,
    slot: str,
    came_from: str,
    unchanged: bool = False,
    new_golden: bool = False,
    removed: Sequence[str] = (),
) -> dict[str, Any]:
    home = f"{device.folder}/models/{name}"
    return {
        "device": device.board.name,
        "name": name,
        "slot": slot,
        "from": came_from,
        "unchanged": unchanged,
        "new_golden": new_golden,
        "path": f"{home}/slots/{slot}",
        "model": f"{home}/current/{record['model']}",
        "sha256": record["sha256"],
        "runtime": record.get("runtime", ""),
        "packages": record.get("packages", ""),
        "golden": _summary(checked),
        "removed": list(removed),
    }
