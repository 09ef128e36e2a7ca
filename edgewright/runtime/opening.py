"""Opens a model, its sources and its sinks as one running stream."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from edgewright.artifact import Artifact, ModelMeta, looks_like
from edgewright.detection import Detection
from edgewright.errors import EngineError, UsageError
from edgewright.labels import read_class_names
from edgewright.preprocess import Preprocess
from edgewright.runtime.address import Address, parse_address
from edgewright.runtime.answers import Meaning
from edgewright.runtime.crew import Flow, Loaded
from edgewright.runtime.decisions import Smoothing
from edgewright.runtime.engine_choice import engine_of
from edgewright.runtime.frames import Sink, Source
from edgewright.runtime.fused import FusedSource
from edgewright.runtime.session import Session
from edgewright.runtime.sinks import open_sink
from edgewright.runtime.sources import open_source
from edgewright.runtime.stream import Stream
from edgewright.runtime.windows import Windowing

__all__ = ["duration_s", "stream", "stream_of_texts"]

From: TypeAlias = "str | Path | Source"
"""Where frames come from: an address, a path, or a source."""

_MODELS = (".tflite", ".onnx", ".xml")
_GIVE_UP_S = 0.5


def stream(
    model: Path | str,
    sources: From | Sequence[From],
    *,
    also: Sequence[tuple[Path | str, From | Sequence[From]]] = (),
    sinks: Sequence[str | Sink] = (),
    engine: str | None = None,
    threads: int = 1,
    exact: bool = False,
    flow: Flow | None = None,
    preprocess: Preprocess | None = None,
    window: Windowing | None = None,
    fuse: str | None = None,
    keep_images: bool = False,
    count: int | None = None,
    **meaning: Any,
) -> Stream:
    """Run a model over sources, and give its results one after the other: iterate over what is returned.

    Preprocessing, task, labels, windows, thresholds come from the artifact beside the model; what is given here goes first.

    Args:
        model: a .tflite, .onnx or OpenVINO .xml file with one input.
        sources: an address (see `open_source`), a path or a source, or several that share the model.
        also: more models, each with sources of its own, in the same stream: one account, the same sinks. What describes them
            comes from the artifacts beside them; `preprocess`, `window`, `fuse` and `meaning` are of the first.
        sinks: addresses (see `open_sink`) or sinks.
        engine: see `open_session`; of all models, None takes the one made for each file's format.
        threads: see `open_session`.
        exact: see `open_session`.
        flow: policies, deadline, workers.
        preprocess: of raw samples.
        window: how sensor samples become windows.
        fuse: see `FusedSource.parse`: the sources are sensors whose values stand side by side; None: they take turns.
        keep_images: results carry their images.
        count: results after which the stream stops, of all sources together; None: it goes on.
        **meaning: fields of `Meaning`, by name.

    Raises:
        EdgewrightError: what opening a model, a source or a sink raises; nothing is left running.
    """
    if count is not None and count < 1:
        raise UsageError(f"{count} results are asked for, at least 1 is needed", hint="leave it out to take all")
    written = [parse_address(out) for out in sinks if isinstance(out, str)]
    _clashes(written, [(model, sources), *also])
    opened: list[Any] = []
    flow = flow or Flow()
    try:
        models = []
        for number, (path, own) in enumerate([(model, sources), *also]):
            opened.append(loading := _Loading(engine_of(path, engine), Path(path), threads, exact))
            named = _sources(own, opened, None if number else fuse)
            said = (None, None, {}) if number else (preprocess, window, meaning)
            models.append(_loaded(loading.session(), named, flow, *said))
        names = iter(_distinct([one for loaded in models for one in loaded.sources]))
        models = [replace(loaded, sources=[next(names) for _ in loaded.sources]) for loaded in models]
        outs: list[tuple[str, Sink]] = []
        for out in sinks:
            sink = open_sink(out) if isinstance(out, str) else out
            opened.append(sink)
            outs.append((_sink_name(out) if isinstance(out, str) else type(sink).__name__, sink))
        return Stream(models, _distinct(outs), flow=flow, keep_images=keep_images, count=count)
    except BaseException:
        for one in reversed(opened):
            one.close()
        raise


def _clashes(sinks: Sequence[Address], models: Sequence[tuple[Path | str, From | Sequence[From]]]) -> None:
    """Refuse sinks that would write over what is read or over each other, and standard input where it cannot be.

    Raises:
        UsageError: two of the files are one, or two sources are standard input.
        SourceError: standard input is wanted and closed.
    """
    taken: dict[Path | None, str] = {}
    inputs = 0
    for model, sources in models:
        files = [Path(model), Path(model).with_suffix(".bin")] if Path(model).suffix == ".xml" else [Path(model)]
        taken |= {file.resolve(): "the model" for file in files}
        for address in (parse_address(one) for one in _each(sources) if isinstance(one, str)):
            inputs += address.scheme == "stdin"
            if address.path is not None:
                taken[address.path.resolve()] = "a source"
    if inputs > 1:
        raise UsageError(f"{inputs} sources read standard input, which gives each line once", hint="name '-' once")
    if inputs:
        from edgewright.runtime.sources.stdin import require_input

        require_input()  # before a model's file is opened, which would get the free descriptor
    for sink in sinks:
        path = sink.path and sink.path.resolve()
        if path is None or (path.exists() and not path.is_file()):  # such as /dev/null
            continue
        if path in taken:
            raise UsageError(f"'{sink.text}' would write over {taken[path]}", hint="name another file")
        taken[path] = "another sink"


class _Loading:
    """A model that is loaded in a thread of its own, beside the opening of its sources.

    Libraries cannot be interrupted while they load: a load that nobody waits for any more frees its model itself.

    Args:
        engine: that loads it.
        path: the model file.
        threads: see `open_session`.
        exact: see `open_session`.
    """

    def __init__(self, engine: type[Session], path: Path, threads: int, exact: bool) -> None:
        self._outcome: Session | BaseException | None = None
        self._given_up, self._lock = False, threading.Lock()
        self._done = threading.Event()  # a thread's own join, once interrupted, does not wait a second time

        def load() -> None:
            outcome: Session | BaseException
            try:
                outcome = engine(path, threads=threads, exact=exact, batch=1)
            except BaseException as error:  # raised where the session is asked for
                outcome = error
            with self._lock:
                self._outcome, unwanted = outcome, self._given_up
            if unwanted and isinstance(outcome, Session):
                outcome.close()
            self._done.set()

        threading.Thread(target=load, name=f"load {path.name}", daemon=True).start()

    def session(self) -> Session:
        """The session, waited for.

        Raises:
            EdgewrightError: what loading it raised.
        """
        self._done.wait()
        if not isinstance(self._outcome, Session):
            raise self._outcome or EngineError("the model was not loaded")
        return self._outcome

    def close(self) -> None:
        """Free the session, now or once it is there; waits for it half a second at most."""
        with self._lock:
            self._given_up = True
            loaded = self._outcome
        if isinstance(loaded, Session):
            loaded.close()
        self._done.wait(_GIVE_UP_S)


def _each(given: From | Sequence[From]) -> list[str | Source]:
    """Addresses and sources, one or several; a path is an address."""
    several = [given] if isinstance(given, (str, Path, Source)) else given
    return [str(one) if isinstance(one, Path) else one for one in several]


def _sources(given: From | Sequence[From], opened: list[Any], fuse: str | None) -> list[tuple[str, Source]]:
    """Names and sources, opened and noted in `opened`; a single one if they are fused."""
    found: list[tuple[str, Source]] = []
    for one in _each(given):
        source = open_source(one) if isinstance(one, str) else one
        opened.append(source)
        found.append((parse_address(one).label if isinstance(one, str) else type(source).__name__, source))
    if not found:
        raise UsageError("there is no source", hint="name one, for example camera:0 or file:clip.mp4")
    if fuse is not None:
        fused = FusedSource.parse(_distinct(found), fuse)
        opened.append(fused)
        found = [(" + ".join(name for name, _ in found), fused)]
    return found


def _loaded(
    session: Session,
    sources: list[tuple[str, Source]],
    flow: Flow,
    preprocess: Preprocess | None,
    window: Windowing | None,
    meaning: dict[str, Any],
) -> Loaded:
    """A model with what its artifact declares, where nothing else was said.

    Raises:
        UsageError: the model cannot be fed by these sources.
    """
    if len(session.inputs) != 1:
        names = ", ".join(spec.name for spec in session.inputs)
        raise UsageError(
            f"{session.path} has {len(session.inputs)} inputs ({names}), a stream feeds one",
            hint="fuse sensors into one input (edgewright.runtime.fusion), or drive the session yourself",
        )
    meta, name = _meta(session.path), session.inputs[0].name
    if preprocess is None and name in meta.preprocess:
        preprocess = Preprocess.from_json(meta.preprocess[name])
    if window is None and "window" in meta.extra:
        window = Windowing.from_json(meta.extra["window"])
    for _, source in sources:
        _fits(source, preprocess, window, session, flow)
    if session.stateful and (len(sources) > 1 or flow.workers > 1):
        raise UsageError(
            f"{session.path} keeps state from one run to the next, there are {len(sources)} sources and {flow.workers} workers",
            hint="run it with one worker, and name the model again before each source",
        )
    return Loaded(session, sources, Meaning.of(meta, **meaning), preprocess, window)


def stream_of_texts(
    model: Path | str,
    sources: Sequence[str],
    *,
    out: Sequence[str] = (),
    engine: str | None = None,
    threads: int = 1,
    exact: bool = False,
    policy: str | None = None,
    buffer: int | None = None,
    workers: int = 1,
    deadline: str | None = None,
    rate: float | None = None,
    downscale: int | None = None,
    fuse: str | None = None,
    preprocess: str | None = None,
    window: str | None = None,
    smoothing: str | None = None,
    detection: str | None = None,
    task: str | None = None,
    labels: str | None = None,
    threshold: float | None = None,
    learn: int = 0,
    track: bool = False,
    keep_images: bool = False,
    count: int | None = None,
    declare: bool = False,
) -> Stream:
    """As `stream`, with everything as a command line has it.

    Args:
        model: see `stream`.
        sources: addresses; a model file among them begins the sources of another model, as in `a.tflite camera:0 b.tflite csv:x`.
        out: addresses of sinks.
        engine: see `stream`.
        threads: see `stream`.
        exact: see `stream`.
        policy: see `Flow`.
        buffer: see `Flow`.
        workers: see `Flow`.
        deadline: for example 100ms or 0.5s.
        rate: see `Flow.rate_hz`.
        downscale: see `Flow`.
        fuse: see `stream`.
        preprocess: see `Preprocess.parse`.
        window: see `Windowing.parse`.
        smoothing: see `Smoothing.parse`.
        detection: see `Detection.parse`.
        task: see `Meaning`.
        labels: a text file with a class name in each line, or names separated by commas.
        threshold: see `Meaning`.
        learn: see `Meaning`.
        track: see `Meaning`.
        keep_images: see `stream`.
        count: see `stream`.
        declare: keep what is said of the model in its artifact.json, so that it need not be said again.

    Raises:
        EdgewrightError: a text does not say what it should, or what `stream` raises.
    """
    flow = Flow(policy, buffer, workers, None if deadline is None else 1000 * duration_s(deadline), rate, downscale)
    declared = Preprocess.parse(preprocess) if preprocess else None
    windows = Windowing.parse(window) if window else None
    own, also = _by_model(model, sources)
    described = {
        "--preprocess": preprocess,
        "--window": window,
        "--smoothing": smoothing,
        "--detection": detection,
        "--task": task,
        "--labels": labels,
        "--threshold": threshold,
        "--learn": learn,
        "--track": track,
        "--fuse": fuse,
        "--declare": declare,
    }
    if also and (said := [name for name, value in described.items() if value not in (None, False, 0)]):
        raise UsageError(
            f"{', '.join(said)} would describe one model, there are {1 + len(also)}",
            hint="say it once for each model alone with --declare, which keeps it in the artifact.json beside the model",
        )
    running = stream(
        model,
        own,
        also=also,
        sinks=list(out),
        engine=engine,
        threads=threads,
        exact=exact,
        flow=flow,
        preprocess=declared,
        window=windows,
        fuse=fuse,
        keep_images=keep_images,
        count=count,
        smoothing=Smoothing.parse(smoothing) if smoothing else None,
        detection=Detection.parse(detection) if detection else None,
        task=task,
        labels=_labels(labels) if labels else None,
        threshold=threshold,
        learn=learn or None,
        track=track or None,
    )
    if declare:
        try:
            _declare(Path(model), running, declared, windows)
        except BaseException:
            running.close()
            raise
    return running


def _by_model(model: Path | str, words: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """The sources of the first model, and further models with theirs."""
    groups: list[tuple[str, list[str]]] = [(str(model), [])]
    for word in words:
        if Path(word).suffix.lower() in _MODELS and Path(word).is_file():
            groups.append((word, []))
        else:
            groups[-1][1].append(word)
    for name, sources in groups:
        if not sources:
            raise UsageError(f"{name} has no source", hint="name its sources behind it: a.tflite camera:0 b.tflite csv:imu.csv")
    return groups[0][1], groups[1:]


def _declare(model: Path, running: Stream, preprocess: Preprocess | None, window: Windowing | None) -> None:
    """Write what was said of a model, and what its artifact said already, into the artifact beside it.

    Raises:
        ArtifactError: it cannot be written.
    """
    session, meaning = running.session, running.meaning
    artifact = Artifact.load(model) or Artifact.of(model, looks_like(model) or "", session.inputs, session.outputs)
    extra: dict[str, Any] = dict(artifact.meta.extra)
    said = {"window": window, "smoothing": meaning.smoothing, "detection": meaning.detection}
    extra |= {name: value.to_json() for name, value in said.items() if value is not None}
    if meaning.threshold is not None:
        extra["threshold"] = meaning.threshold
    images = dict(artifact.meta.preprocess)
    if preprocess is not None:
        images[session.inputs[0].name] = preprocess.to_json()
    artifact.with_meta(preprocess=images, task=meaning.task, labels=meaning.labels, extra=extra).save()


def duration_s(text: str) -> float:
    """Seconds from a text such as 100ms, 2s, 5min or 0.5.

    Raises:
        UsageError: it is no duration above 0.
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*(ms|s|min|h)?\s*", text)
    try:
        value = float(found[1]) * {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}[found[2] or "s"] if found else 0.0
    except ValueError:
        value = 0.0
    if not value > 0:
        raise UsageError(f"'{text}' is no duration", hint="write for example 100ms, 2s or 5min")
    return value


def _labels(text: str) -> tuple[str, ...]:
    path = Path(text)
    if path.is_file():
        return read_class_names(path)
    if path.suffix:
        raise UsageError(f"there is no file of labels {path}", hint="pass a text file with a name in each line, or a,b,c")
    return tuple(name.strip() for name in text.split(","))


def _meta(model: Path) -> ModelMeta:
    """What the artifact beside a model says; nothing if there is none."""
    artifact = Artifact.load(model)
    return artifact.meta if artifact is not None else ModelMeta()


def _fits(source: Source, preprocess: Preprocess | None, window: Windowing | None, session: Session, flow: Flow) -> None:
    """Refuse a source whose samples the model cannot be given.

    Raises:
        UsageError: images without a declaration, sensor rows without windows, or a frame rate for windows.
    """
    spec = session.inputs[0]
    if source.kind == "sensor" and window is not None and flow.rate_hz is not None:
        raise UsageError(
            f"a rate of {flow.rate_hz:g} per second is asked for, windows come as their stride says",
            hint="leave the rate away, and declare the stride, or the sensor's rate as --window rate=...",
        )
    if source.kind == "image" and (preprocess is None or not preprocess.is_image):
        height, width = ([*spec.shape[1:3], "HEIGHT", "WIDTH"])[:2]
        raise UsageError(
            f"{session.path.name} does not say how images become its input {spec}",
            hint=f"declare it: --preprocess size={height}x{width},color=rgb,scale=1/127.5,offset=-1",
        )
    if source.kind == "sensor" and window is None and len(spec.shape) == 3:
        raise UsageError(
            f"{session.path.name} takes windows ({spec}), the source gives single samples",
            hint=f"declare them: --window length={spec.shape[1]},stride={max(1, (spec.shape[1] or 2) // 2)}",
        )


def _sink_name(address: str) -> str:
    return "stdout" if address == "-" else parse_address(address).label


def _distinct(named: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Names made different: a second camera:0 is camera:0 #2."""
    found: dict[str, int] = {}
    result = []
    for name, one in named:
        found[name] = found.get(name, 0) + 1
        result.append((name if found[name] == 1 else f"{name} #{found[name]}", one))
    return result
