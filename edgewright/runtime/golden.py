"""Golden vectors: inputs of a model and what it computes from them, made in one place and checked in another.

What counts as the same, per output (`LSB_LIMITS`, `FLOAT_LIMITS`):

- quantized integers: 99 % of the values differ by at most one step of 8-bit values and none by more than 4; for 16-bit
  values, whose steps are 256 times finer, 16 and 128. Kernels round differently, and one step is what rounding costs.
- other integers and booleans: every value is equal.
- floats: no value differs by more than a share of the output's largest value in the reference: 0.1 % where the engine
  computes in float32, 2 % in float16, 5 % in bf16, in int8 and where it does not tell.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgewright.artifact import TensorSpec, file_sha256, write_atomic
from edgewright.errors import ArtifactError, VerificationError
from edgewright.runtime.engine_choice import open_session
from edgewright.runtime.session import Array, Session

__all__ = ["Golden", "check_golden", "compare", "drawn_values", "golden_path", "make_golden", "read_golden", "require_golden"]

CALLS = 8
"""Inferences of a golden vector that is made from random inputs."""

LSB_LIMITS = {1: (1, 4), 2: (16, 128)}
"""By the bytes of a quantized value: the steps that 99 % of the values may differ by, and those that all may."""

WITHIN = 0.99

FLOAT_LIMITS = {"float32": 1e-3, "float16": 2e-2}
FLOAT_LIMIT = 5e-2
"""Shares of the largest value of an output, by the precision that the engine computes in; `FLOAT_LIMIT` for any other."""

_SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Golden:
    """Inputs and what came out of them, one inference after the other.

    Args:
        feeds: arrays by input name, as the model takes them, for each inference.
        results: arrays by output name, as the model gives them, for each inference.
        sha256: digest of the model that they were made with.
        source: where the inputs come from: "seed 0", or the name of samples.
        made_by: engine, library and execution of the reference.
    """

    feeds: tuple[Mapping[str, Array], ...]
    results: tuple[Mapping[str, Array], ...]
    sha256: str
    source: str
    made_by: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write an .npz, whole or not at all; the same vectors give the same bytes.

        Raises:
            ArtifactError: it cannot be written.
        """
        inputs, outputs = list(self.feeds[0]), list(self.results[0])
        arrays: dict[str, Any] = {}
        for call, (feed, result) in enumerate(zip(self.feeds, self.results, strict=True)):
            arrays |= {f"in_{call}_{number}": feed[name] for number, name in enumerate(inputs)}
            arrays |= {f"out_{call}_{number}": result[name] for number, name in enumerate(outputs)}
        about = {
            "schema": _SCHEMA,
            "sha256": self.sha256,
            "source": self.source,
            "made_by": dict(self.made_by),
            "inputs": inputs,
            "outputs": outputs,
            "calls": len(self.feeds),
        }
        packed = io.BytesIO()
        np.savez_compressed(packed, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
        write_atomic(path, packed.getvalue())


def golden_path(model: Path) -> Path:
    """Where a model's golden vectors lie: its name with `.golden.npz` behind it."""
    return model.with_name(f"{model.name}.golden.npz")


def read_golden(path: Path) -> Golden:
    """The vectors of a file; nothing in it is unpickled.

    Raises:
        ArtifactError: there is none, or it is no file of golden vectors.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            about = json.loads(found["about"].tobytes())
            if about["schema"] != _SCHEMA:
                raise ValueError(f"schema is {about['schema']}, {_SCHEMA} is expected")
            sides = [
                tuple({name: found[f"{side}_{call}_{n}"] for n, name in enumerate(names)} for call in range(about["calls"]))
                for side, names in (("in", about["inputs"]), ("out", about["outputs"]))
            ]
            return Golden(sides[0], sides[1], str(about["sha256"]), str(about["source"]), dict(about["made_by"]))
    except FileNotFoundError as error:
        raise ArtifactError(f"there are no golden vectors at {path}", hint="deploy makes them anew") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"{path} holds no golden vectors ({type(error).__name__}: {error})", hint="remove it, and deploy makes them anew"
        ) from error


def make_golden(
    model: Path,
    *,
    feeds: Sequence[Mapping[str, Array]] | None = None,
    source: str = "",
    engine: str | None = None,
    seed: int = 0,
) -> Golden:
    """Compute the reference here, in float32 where the model is float.

    Args:
        model: a .tflite, .onnx or OpenVINO .xml file.
        feeds: inputs as the model takes them, one mapping per inference; None draws `CALLS` of them: normal values for float
            inputs, all stored values for quantized ones, 0 and 1 for other integers, a free size is 1.
        source: what to call the inputs; empty for drawn ones.
        engine: name of an engine; None takes the format's own.
        seed: of the drawn inputs.

    Raises:
        EdgewrightError: what `open_session` and `Session.run` raise.
        VerificationError: the model gives other values when the same inputs are fed once more: nothing can be compared.
    """
    with open_session(model, engine=engine, exact=True) as session:
        if feeds is None:
            rng = np.random.default_rng(seed)
            feeds = [{spec.name: drawn_values(spec, rng) for spec in session.inputs} for _ in range(CALLS)]
            source = f"seed {seed}"
        results = _run(session, feeds)
        with session.clone() as again:
            differing = [row for row in compare(session.outputs, results, _run(again, feeds), "float32") if not row["passed"]]
        if differing:
            raise VerificationError(
                f"{model.name} gives another value for {differing[0]['name']} when the same inputs are fed again: "
                f"{_words(differing[0])}",
                hint="take what draws random numbers out of the model: a random model cannot be checked on a board",
            )
        about = {"engine": session.engine, "library": session.version(), "execution": session.execution.to_json()}
    return Golden(tuple(feeds), tuple(results), file_sha256(model), source, about)


def check_golden(
    model: Path, golden: Golden, *, engine: str | None = None, threads: int = 1, exact: bool = False
) -> dict[str, Any]:
    """Run a model here on golden inputs and compare with what the reference gave.

    Args:
        model: the file that the vectors were made for.
        golden: the vectors.
        engine: name of an engine; None takes the format's own.
        threads: threads of one call.
        exact: compute in float32 even where the engine prefers less.

    Returns:
        `passed`, `calls`, `source`, `sha256`, `engine`, `library`, `execution`, `reference` (what computed it), and
        `outputs`, one row of `compare` each: plain values.

    Raises:
        VerificationError: the vectors were made for another model.
        EdgewrightError: what `open_session` and `Session.run` raise.
    """
    found = file_sha256(model)
    if found != golden.sha256:
        raise VerificationError(
            f"the golden vectors were made for a model with sha256 {golden.sha256[:12]}, {model.name} has {found[:12]}",
            hint="remove them, and deploy makes them anew",
        )
    with open_session(model, engine=engine, threads=threads, exact=exact) as session:
        rows = compare(session.outputs, golden.results, _run(session, golden.feeds), session.execution.precision)
        return {
            "schema": _SCHEMA,
            "passed": all(row["passed"] for row in rows),
            "calls": len(golden.feeds),
            "source": golden.source,
            "sha256": golden.sha256,
            "engine": session.engine,
            "library": session.version(),
            "execution": session.execution.to_json(),
            "reference": dict(golden.made_by),
            "outputs": rows,
        }


def compare(
    specs: Sequence[TensorSpec], references: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]], precision: str
) -> list[dict[str, Any]]:
    """What each output differs by, over all inferences.

    Args:
        specs: the outputs.
        references: arrays by output name, one mapping per inference.
        found: the same from elsewhere.
        precision: that the engine of `found` computes in.

    Returns:
        For each output `name`, `rule` and `limit` in words and as a number, `passed`, `equal` (share of values), `difference`
        (the largest; in steps for quantized integers), and where it is: `call`, `index`, `reference`, `value`. `why` tells of
        another shape or dtype. All are plain values.
    """
    return [
        _row(spec, [one.get(spec.name) for one in references], [one.get(spec.name) for one in found], precision) for spec in specs
    ]


def require_golden(report: Mapping[str, Any], where: str) -> None:
    """Refuse outputs that differ from the reference.

    Args:
        report: what `check_golden` gave.
        where: the machine, for the message.

    Raises:
        VerificationError: names the output that is worst, both values and the limit.
    """
    failed = [row for row in report["outputs"] if not row["passed"]]
    if not failed:
        return
    worst = max(failed, key=lambda row: float(row["difference"]) / max(float(row["limit"]), 1e-30) if not row["why"] else np.inf)
    raise VerificationError(
        f"output '{worst['name']}' on {where} is not what the reference gives: {_words(worst)}",
        hint=f"computed there by {report['library']} in {report['execution']['precision']}, here by "
        f"{report['reference'].get('library')}: another release or engine there may do; nothing was switched",
    )


def _words(row: Mapping[str, Any]) -> str:
    """One output's worst value in words."""
    if row["why"]:
        return str(row["why"])
    return (
        f"{row['value']:g} instead of {row['reference']:g} in inference {row['call']} at {row['index']}; "
        f"{row['equal']:.1%} of the values are equal, allowed is: {row['rule']}"
    )


def _row(spec: TensorSpec, references: Sequence[Any], found: Sequence[Any], precision: str) -> dict[str, Any]:
    """One output over all inferences."""
    rule, limit = _rule(spec, references, precision)
    row: dict[str, Any] = {"name": spec.name, "dtype": spec.dtype, "rule": rule, "limit": limit, "why": "", "passed": False}
    row |= {"equal": 0.0, "difference": float("inf"), "call": 0, "index": [], "reference": None, "value": None}
    pairs = list(zip(references, found, strict=True))
    for call, (wanted, value) in enumerate(pairs):
        sides = ["none" if side is None else f"{side.dtype} of shape {side.shape}" for side in (wanted, value)]
        if sides[0] != sides[1]:
            return {**row, "call": call, "difference": 0.0, "why": f"it is {sides[1]} instead of {sides[0]} in inference {call}"}
    differences = [_difference(wanted, value) for wanted, value in pairs]
    every = np.concatenate([one.ravel() for one in differences]) if differences else np.zeros(0)
    if not every.size:
        return {**row, "passed": True, "equal": 1.0, "difference": 0.0}
    call = int(np.argmax([one.max(initial=0.0) for one in differences]))
    at = np.unravel_index(int(differences[call].argmax()), differences[call].shape)
    largest = float(every.max())
    within = True
    if (steps := _steps(spec)) is not None:
        within = float((every <= steps[0]).mean()) >= WITHIN
    return row | {
        "passed": largest <= limit and within,
        "equal": float((every == 0).mean()),
        "difference": largest if np.isfinite(largest) else 1e300,
        "call": call,
        "index": [int(n) for n in at],
        "reference": _plain(pairs[call][0][at]),
        "value": _plain(pairs[call][1][at]),
    }


def _rule(spec: TensorSpec, references: Sequence[Any], precision: str) -> tuple[str, float]:
    """What an output may differ by, in words, and the largest difference as a number."""
    if (steps := _steps(spec)) is not None:
        most, all_of_them = steps
        return f"{WITHIN:.0%} within {most} LSB and all within {all_of_them}", float(all_of_them)
    if np.dtype(spec.dtype).kind not in "fc":
        return "all equal", 0.0
    share = FLOAT_LIMITS.get(precision, FLOAT_LIMIT)
    finite = [np.abs(one[np.isfinite(one)]).max(initial=0.0) for one in references if one is not None]
    peak = max((float(value) for value in finite), default=0.0)
    return f"within {share:g} of the largest value, {peak:g} (computed in {precision})", share * max(peak, 1e-6)


def _steps(spec: TensorSpec) -> tuple[int, int] | None:
    """Limits of a quantized output in steps; None for any other."""
    dtype = np.dtype(spec.dtype)
    return LSB_LIMITS.get(dtype.itemsize) if spec.quantized and dtype.kind in "iu" else None


def _difference(wanted: Array, value: Array) -> Array:
    """Distances; 0 where both are the same NaN or infinity, infinite where only one is."""
    kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
    a, b = wanted.astype(kind), value.astype(kind)
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.asarray(np.where(same, 0.0, np.where(np.isfinite(apart), apart, np.inf)))


def _plain(value: Any) -> float:
    """A number as JSON can hold it; infinities become the largest float."""
    return float(np.nan_to_num(np.abs(value) if np.iscomplexobj(value) else float(value), nan=0.0))


def _run(session: Session, feeds: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
    return [session.run(feed) for feed in feeds]


def drawn_values(spec: TensorSpec, rng: np.random.Generator) -> Array:
    """Random values that an input takes, of its dtype; a free size is 1.

    Normal values for floats, all stored values for quantized integers, 0 and 1 for others.
    """
    shape = tuple(1 if size is None else size for size in spec.shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "fc":
        return np.asarray(rng.standard_normal(shape)).astype(dtype)
    if spec.quantized:
        limits = np.iinfo(dtype)
        return np.asarray(rng.integers(limits.min, limits.max, shape, dtype, endpoint=True), dtype)
    return np.asarray(rng.integers(0, 2, shape)).astype(dtype)
