"""Outputs of a model file over samples, through an inference engine; a job for a child process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec
from edgewright.errors import ShapeError
from edgewright.preprocess import decode, encode
from edgewright.runtime import Session, open_session
from edgewright.samples import SamplesSpec, open_samples
from edgewright.worker import progress

__all__ = ["engine_outputs", "engine_specs"]

Array = np.ndarray[Any, Any]


def engine_specs(path: str) -> dict[str, Any]:
    """JSON of a file's inputs and outputs as its engine sees them."""
    with open_session(Path(path)) as session:
        return _specs(session)


def engine_outputs(
    path: str, out: str, samples: Mapping[str, Any], *, engine: str | None, exact: bool, threads: int = 1
) -> dict[str, Any]:
    """Run a file over samples and store its outputs as real numbers in an .npz, one array per output in order.

    Args:
        path: a file that an engine runs.
        out: the .npz to write.
        samples: JSON of a `SamplesSpec`.
        engine: name of the engine; None takes the format's own.
        exact: compute float ops in float32.
        threads: threads of the engine.

    Returns:
        inputs, outputs, `execution` (the precision that the engine really used), `samples`, `warnings`.
    """
    with open_session(Path(path), engine=engine, exact=exact, threads=threads) as session:
        opened = open_samples(SamplesSpec.from_json(samples), tuple(_free_batch(spec) for spec in session.inputs))
        results: dict[str, list[Array]] = {spec.name: [] for spec in session.outputs}
        count = len(opened)
        rows = session.inputs[0].shape[0] if session.inputs[0].shape else None
        for index, batch in enumerate(opened.batches(rows or 1)):
            for name, value in _run(session, batch, rows or 1).items():
                results[name].append(value)
            progress((index + 1) * (rows or 1) / count, f"{Path(path).name}, sample {index + 1} of {count}")
        np.savez(
            out, allow_pickle=False, **{f"{i}": np.concatenate(results[spec.name]) for i, spec in enumerate(session.outputs)}
        )
        return {
            **_specs(session),
            "execution": session.execution.to_json(),
            "engine": session.engine,
            "samples": opened.describe(),
            "warnings": opened.warnings,
        }


def _run(session: Session, batch: Mapping[str, Array], rows: int) -> dict[str, Array]:
    """One call: the batch is filled up to the model's fixed size by repeating its last sample, whose results are cut off."""
    given = len(next(iter(batch.values())))
    feeds = {}
    for spec in session.inputs:
        value = batch[spec.name]
        if given < rows:
            value = np.concatenate([value, np.repeat(value[-1:], rows - given, axis=0)])
        feeds[spec.name] = encode(spec, value)
    session.reset()
    results = session.run(feeds)
    return {spec.name: _per_sample(spec, decode(spec, results[spec.name]), rows)[:given] for spec in session.outputs}


def _per_sample(spec: TensorSpec, value: Array, fed: int) -> Array:
    """An output with samples as its first axis; some models of batch 1 leave that axis out."""
    if value.ndim and value.shape[0] == fed:
        return value
    if fed == 1:
        return value[np.newaxis]
    raise ShapeError(
        f"output '{spec.name}' has shape {value.shape} for {fed} samples, its first size should be {fed}",
        hint="convert the model with a batch size of 1",
    )


def _free_batch(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, (None, *spec.shape[1:]), spec.dtype, spec.scale, spec.zero_point)


def _specs(session: Session) -> dict[str, Any]:
    return {"inputs": [spec.to_json() for spec in session.inputs], "outputs": [spec.to_json() for spec in session.outputs]}
