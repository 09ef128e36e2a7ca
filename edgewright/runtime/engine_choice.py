"""Which engine takes which model file, and opening it there."""

from __future__ import annotations

from pathlib import Path

from edgewright.artifact import looks_like
from edgewright.errors import EngineError, ModelError
from edgewright.runtime.engines import ENGINES
from edgewright.runtime.session import Session

__all__ = ["engine_of", "open_session"]


def open_session(
    path: Path | str, *, engine: str | None = None, threads: int = 1, exact: bool = False, batch: int | None = None
) -> Session:
    """Load a model file into an inference engine.

    Args:
        path: a .tflite, .onnx or OpenVINO .xml file; the content decides, not the name.
        engine: a name in `ENGINES`; None takes the engine made for the file's format.
        threads: threads that one call may compute with.
        exact: compute float ops in float32 even where the engine would choose a lower precision by itself, as OpenVINO
            does on CPUs with bfloat16 instructions.
        batch: samples of every run, if that is known: OpenVINO plans anew for each free batch; None leaves it free.

    Returns:
        A session that belongs to the thread that runs it first.

    Raises:
        EngineError: there is no such file, no engine takes its format, or the engine cannot load it.
        MissingPackageError: the engine's package is not installed.
        PluginError: there is no engine of this name.
        UsageError: `threads` is less than 1.
    """
    return engine_of(path, engine)(Path(path), threads=threads, exact=exact, batch=batch)


def engine_of(path: Path | str, engine: str | None = None) -> type[Session]:
    """The engine that `open_session` loads a file into: its first bytes are read, nothing is loaded.

    Args:
        path: see `open_session`.
        engine: see `open_session`.

    Raises:
        EngineError: there is no such file, or no engine takes its format.
        PluginError: there is no engine of this name.
    """
    path = Path(path)
    try:
        found = looks_like(path)
    except ModelError as error:
        raise EngineError(error.message, error.hint) from error
    cls = ENGINES.get(engine) if engine is not None else _made_for(path, found)
    if found not in cls.formats:
        raise EngineError(
            f"the engine {cls.engine} takes {' and '.join(cls.formats)} files, {path} is {found or 'of no known format'}",
            hint=_advice(found),
        )
    return cls


def _made_for(path: Path, found: str | None) -> type[Session]:
    """The engine whose own format this is."""
    if found is not None:
        for name in ENGINES.names():
            cls = ENGINES.get(name)
            if cls.formats[0] == found:
                return cls
    raise EngineError(f"no engine runs {path}: it is {found or 'of no known model format'}", hint=_advice(found))


def _advice(found: str | None) -> str:
    """What to do with a file of a format that is not runnable, or not by the engine asked for."""
    if found in ("keras", "h5", "saved_model"):
        return "convert it first: edgewright convert MODEL --to tflite"
    if found is None:
        return "check that the file is whole: .tflite, .onnx and OpenVINO .xml files are recognised by their first bytes"
    return "leave the engine out, and the one made for the format is taken"
