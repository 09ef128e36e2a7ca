"""Run a pass on a Keras model; a job for a child process."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from edgewright.converters.readers import READERS
from edgewright.converters.writers import versions
from edgewright.errors import EdgewrightError, UnsupportedError, WorkerMemoryError
from edgewright.optimizers.graph import require_functional
from edgewright.optimizers.losses import compiled_of
from edgewright.optimizers.passes import PASSES, KerasPass, Task
from edgewright.optimizers.training import Trainer, strategy_scope
from edgewright.optimizers.training_data import training_data
from edgewright.samples import SamplesSpec, open_samples
from edgewright.worker import progress

__all__ = ["run_pass", "save_keras"]


def run_pass(
    name: str,
    options: Mapping[str, Any],
    path: str,
    original: str,
    out: str,
    samples: Mapping[str, Any] | None,
    *,
    seed: int,
    resume: str | None,
    trust: bool,
    custom: str | None,
) -> dict[str, Any]:
    """Apply a pass to a Keras model and save what comes out.

    Args:
        name: of the pass.
        options: its options as plain values.
        path: the model.
        original: the model as the user gave it, whose outputs training may ask for.
        out: the .keras file to write.
        samples: JSON of a `SamplesSpec` to train with; None where there are none.
        seed: of everything random.
        resume: folder for what a killed training needs to go on.
        trust: run code that the model carries.
        custom: module that registers custom objects.

    Returns:
        inputs and outputs of the new model, `claims`, `mixed`, `warnings`, `samples` that were trained with, `versions`.

    Raises:
        UnsupportedError: the model is subclassed, or has something that the pass cannot do.
        SamplesError: samples or labels do not fit.
    """
    import keras
    import tensorflow as tf

    os.environ["TF_DETERMINISTIC_OPS"] = "1"
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(seed)
    cls = cast("type[KerasPass]", PASSES.get(name))
    step = cls(cls.Options(**options))
    with strategy_scope(getattr(step.options, "strategy", "none")):
        reader = _open(path, trust, custom)
        first = reader if original == path else _open(original, trust, custom)
        require_functional(reader.model)
        inputs, outputs = reader.specs()
        progress(0.05, "model loaded")
        trainer, opened = None, None
        notes: list[str] = []
        if samples is not None:
            opened = open_samples(SamplesSpec.from_json(samples), inputs)
            opened.require(1, "training")
            soft = getattr(step.options, "distill", 0.0) > 0
            names = [spec.name for spec in outputs]
            data = training_data(opened, first.model, names, soft=soft)
            compiled = compiled_of(first.model, first.compile_config(), notes)
            trainer = Trainer(step.options, data, seed, Path(resume) if resume else None, compiled, notes)
        try:
            outcome = step.transform(Task(reader.model, trainer, first.model, seed, notes))
        except (EdgewrightError, MemoryError):
            raise
        except tf.errors.ResourceExhaustedError as error:
            raise WorkerMemoryError(f"{name} ran out of memory", hint="use a smaller batch, or a machine with more") from error
    save_keras(outcome.model, Path(out))
    written = _open(out, trust, custom).specs()
    return {
        "inputs": [spec.to_json() for spec in written[0]],
        "outputs": [spec.to_json() for spec in written[1]],
        "claims": [asdict(claim) for claim in outcome.claims],
        "mixed": {name: list(layers) for name, layers in outcome.mixed.items()},
        "warnings": [*notes, *(opened.warnings if opened else ())],
        "samples": {"what": len(opened), "digest": opened.digest()} if opened else None,
        "versions": versions("tensorflow", "keras"),
    }


def _open(path: str, trust: bool, custom: str | None) -> Any:
    reader: Any = READERS.get("keras")
    found = reader(Path(path), trust=trust, custom=custom)
    if type(found.model).__module__.startswith("tf_keras"):
        raise UnsupportedError(
            f"{path} is a model of Keras 2: passes work on Keras 3", hint="load it with Keras 3 and save it as .keras"
        )
    return found


def save_keras(model: Any, out: Path) -> None:
    """Save a model so that the same model gives the same bytes: without the date that Keras writes."""
    buffer = io.BytesIO()
    part = out.with_name(f"{out.stem}.part.keras")
    model.save(part)
    with zipfile.ZipFile(part) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        for name in sorted(old.namelist()):
            data = old.read(name)
            if name == "metadata.json":
                data = json.dumps({**json.loads(data), "date_saved": ""}, sort_keys=True).encode()
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    part.unlink()
    out.write_bytes(buffer.getvalue())
