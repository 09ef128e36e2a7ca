"""Deploy a model from here: which engine, the golden vectors it is checked with, and the board it goes to."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgewright.artifact import file_sha256, looks_like, write_atomic
from edgewright.devices import deploy as there
from edgewright.devices.boards import Board, find_board
from edgewright.devices.device import ENGINE_MODULES, Device, open_device
from edgewright.devices.packages import how_to_get
from edgewright.errors import ArtifactError, DeviceError, UsageError
from edgewright.worker import Limits, run

if TYPE_CHECKING:
    from edgewright.data import Data
    from edgewright.runtime.session import Array, Session

__all__ = ["choose_engine", "deploy", "deployed", "rollback", "write_golden"]

Progress = Callable[[float, str], None]

log = logging.getLogger("edgewright")


def deploy(
    model: str | Path,
    device: str | Board,
    *,
    name: str | None = None,
    engine: str | None = None,
    wheels: str | Path | None = None,
    samples: Data | str | Path | Mapping[str, Any] | None = None,
    wait_s: float = 0.0,
    keep: int = there.KEEP,
    limits: Limits = Limits(),
    progress: Progress | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Make a model the version that runs on a board, once its golden vectors are computed there as they are here.

    Golden vectors are computed here, in a child process, and kept beside the model (`NAME.golden.npz`) with its digest; those
    of an older file are made anew, and so are they whenever samples are given.

    Args:
        model: a .tflite, .onnx or OpenVINO .xml file; its weights and artifact.json go with it.
        device: name or profile of a board.
        name: of the model there; None takes the file's name without its suffix.
        engine: that runs it there; None takes the first of the board's that can, or the format's own.
        wheels: folder with wheels of NumPy and an engine for the board, if it has none.
        samples: inputs for the golden vectors; None draws them.
        wait_s: seconds to wait for another run on the board.
        keep: versions that stay on the board.
        limits: time and memory of the child process.
        progress: called with a share between 0 and 1 and a text.
        on_wait: told who is waited for.

    Returns:
        See `edgewright.devices.deploy.deploy`.

    Raises:
        VerificationError: the board computes something else; the version that ran before runs on.
        DeviceBusyError: another run holds the board.
        DeviceError: the board cannot be reached, lacks space, NumPy or an engine, or went away.
        UsageError: no such board, no engine for the format, a wrong name.
        EdgewrightError: the model or the samples cannot be read.
    """
    model = Path(model)
    board = find_board(device) if isinstance(device, str) else device
    name = model.stem if name is None else name
    there.require_name(name)
    found = looks_like(model)
    with open_device(board, what=f"deploying {model.name}", wait_s=wait_s, on_wait=on_wait) as held:
        folder = None if wheels is None else Path(wheels)
        held.ensure_runtime(folder, progress)
        chosen = engine or choose_engine(held, found, model.name)
        with _golden_of(model, samples, chosen, limits, progress) as golden:
            return there.deploy(held, model, golden, name=name, engine=chosen, wheels=folder, keep=keep, progress=progress)


def rollback(
    device: str | Board,
    name: str,
    *,
    to: int | None = None,
    wait_s: float = 0.0,
    progress: Progress | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Make an earlier version of a model run again on a board; see `edgewright.devices.deploy.rollback`."""
    with open_device(device, what=f"rolling {name} back", wait_s=wait_s, on_wait=on_wait) as held:
        return there.rollback(held, name, to, progress)


def deployed(device: str | Board, name: str | None = None, *, wait_s: float = 0.0) -> dict[str, Any]:
    """What runs on a board, and what ran; see `edgewright.devices.deploy.deployed`."""
    with open_device(device, what="listing what is deployed", wait_s=wait_s) as held:
        return there.deployed(held, name)


def write_golden(path: str, out: str, samples: Mapping[str, Any] | None, engine: str | None) -> dict[str, Any]:
    """Compute and write the golden vectors of a model; a job for a child process.

    Args:
        path: the model.
        out: the .npz to write.
        samples: JSON of a `SamplesSpec`; None draws inputs.
        engine: name of the engine; None takes the format's own.
    """
    from edgewright.runtime.engine_choice import open_session
    from edgewright.runtime.golden import make_golden

    feeds = None
    if samples is not None:
        with open_session(path, engine=engine, exact=True) as session:
            feeds = list(_feeds(session, samples))
    golden = make_golden(Path(path), feeds=feeds, source=str(samples["source"]) if samples else "", engine=engine)
    golden.write(Path(out))
    return {"calls": len(golden.feeds)}


def _feeds(session: Session, samples: Mapping[str, Any]) -> Iterator[dict[str, Array]]:
    """The first samples as the model takes them; the last batch of a model of batch N is filled up with its last sample."""
    from dataclasses import replace

    import numpy as np

    from edgewright.preprocess import encode
    from edgewright.runtime.golden import CALLS
    from edgewright.samples import SamplesSpec, open_samples

    free = tuple(replace(spec, shape=(None, *spec.shape[1:])) for spec in session.inputs)
    rows = (session.inputs[0].shape[0] if session.inputs[0].shape else None) or 1
    for _, batch in zip(range(CALLS), open_samples(SamplesSpec.from_json(samples), free).batches(rows), strict=False):
        missing = rows - len(next(iter(batch.values())))
        yield {
            spec.name: encode(spec, np.concatenate([batch[spec.name], np.repeat(batch[spec.name][-1:], missing, axis=0)]))
            for spec in session.inputs
        }


def choose_engine(device: Device, format: str | None, name: str) -> str:
    """The engine that is to run a file on a board: the first of the board's that takes its format and is installed there.

    Args:
        device: the board, after `ensure_runtime`; one whose profile names no engines takes the format's own first.
        format: what `looks_like` tells of the file.
        name: of the file, for messages.

    Raises:
        UsageError: none of the board's engines takes the format.
        DeviceError: one does, but is not installed there.
    """
    from edgewright.runtime import ENGINES

    board = device.board
    order = board.engines or sorted(ENGINES.names(), key=lambda one: ENGINES.get(one).formats[0] != format)
    taking = [one for one in order if format in ENGINES.get(one).formats]
    if not taking:
        raise UsageError(
            f"{name} is {format or 'of no known format'}, the engines of {board.name} are {', '.join(order)}",
            hint="convert the model for one of them, or name an engine with --engine",
        )
    installed = [one for one in taking if one in device.engines() or one not in ENGINE_MODULES]
    if not installed:
        get = how_to_get(device.survey(), taking[0])
        raise DeviceError(
            f"{name} runs with {' or '.join(taking)}, which the Python of {board.name} does not have",
            hint=f"pass --wheels DIR with what '{get}' brings there, or install {taking[0]} on the board",
        )
    return installed[0]


@contextmanager
def _golden_of(
    model: Path,
    samples: Data | str | Path | Mapping[str, Any] | None,
    engine: str | None,
    limits: Limits,
    progress: Progress | None,
) -> Iterator[Path]:
    """The golden vectors of a model: those that lie beside it, if they are of this very file, or new ones."""
    from edgewright.runtime.golden import golden_path, read_golden

    kept = golden_path(model)
    if samples is None and kept.is_file():
        try:
            golden = read_golden(kept)
            if golden.sha256 == file_sha256(model) and engine in (None, golden.made_by.get("engine")):
                yield kept
                return
        except ArtifactError as error:
            log.debug("%s", error)
    with tempfile.TemporaryDirectory(prefix="edgewright-") as folder:
        made = Path(folder) / kept.name
        spec = None if samples is None else _spec(model, samples, limits, Path(folder))
        if progress:
            progress(0.0, f"computing golden vectors of {model.name}")
        run(
            "edgewright.deployment:write_golden",
            what=f"computing golden vectors of {model.name}",
            limits=limits,
            path=str(model),
            out=str(made),
            samples=spec,
            engine=engine,
        )
        try:
            write_atomic(kept, made.read_bytes())
        except ArtifactError as error:  # a model in a folder that is not ours can be deployed all the same
            log.debug("golden vectors are not kept: %s", error)
        yield made


def _spec(model: Path, samples: Data | str | Path | Mapping[str, Any], limits: Limits, work: Path) -> dict[str, Any]:
    """JSON of the samples, preprocessed as the model was saved with unless they say otherwise."""
    from edgewright.artifact import TensorSpec
    from edgewright.conversion import Trust, described
    from edgewright.data import Data
    from edgewright.verification import tells

    data = samples if isinstance(samples, Data) else Data(samples)
    known = described(model, Trust(), limits)
    if not data.preprocess and tells(model):
        data = data.completed(known.meta)
    inputs = tuple(
        TensorSpec(spec.name, (None, *spec.shape[1:]), "float32" if spec.quantized else spec.dtype) for spec in known.inputs
    )
    plain: dict[str, Any] = json.loads(json.dumps(data.spec(inputs, work).to_json()))
    return plain
