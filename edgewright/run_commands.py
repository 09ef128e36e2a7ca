"""The verb `run`; outside of `edgewright.runtime`, so that --help loads no NumPy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from edgewright.errors import EdgewrightError
from edgewright.options import EngineName, Json, invocation_of

__all__ = ["run"]


def run(
    context: typer.Context,
    model: Annotated[Path, typer.Argument(help="A .tflite, .onnx or OpenVINO .xml file with one input.")],
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Where frames come from: clip.mp4, camera:0, rtsp://host/path, http://host/mjpeg, images:FOLDER, "
            "csv:imu.csv?rate=50, mqtt://host/topic, mqtts://host/topic, serial:PORT?baud=115200, synthetic:image, -. "
            "Several share the model; a model file among them begins the sources of another model.",
        ),
    ],
    out: Annotated[
        list[str] | None,
        typer.Option(
            "--out",
            "-o",
            help="Where results go, repeatable: out.jsonl, out.csv, video:seen.ts, mqtt://host/topic, mqtts://host/topic, "
            "kafka://host/topic, - (stdout).",
        ),
    ] = None,
    engine: Annotated[EngineName | None, typer.Option("--engine", help="Engine.  [default: its format's own]")] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of one inference.")] = 1,
    exact: Annotated[bool, typer.Option("--exact", help="Force float32 where an engine would compute in less.")] = False,
    policy: Annotated[
        str | None,
        typer.Option("--policy", help="When the buffer is full: wait, oldest, newest.  [default: oldest if live, else wait]"),
    ] = None,
    buffer: Annotated[
        int | None,
        typer.Option("--buffer", min=1, help="Frames of a source that wait at most.  [default: 1 if live, else 4 to 32]"),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Threads that infer; results keep their order.")] = 1,
    deadline: Annotated[str | None, typer.Option("--deadline", help="Older results are flagged as late: 100ms.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", help="Frames per second that are taken at most.")] = None,
    downscale: Annotated[int | None, typer.Option("--downscale", min=1, help="Longest side of images in pixels.")] = None,
    fuse: Annotated[str | None, typer.Option("--fuse", help="Sensors side by side, by time: rate=50,skew=0.2.")] = None,
    preprocess: Annotated[
        str | None, typer.Option("--preprocess", help="Of raw samples, if the artifact does not say: size=224x224,color=rgb,...")
    ] = None,
    window: Annotated[
        str | None, typer.Option("--window", help="Of sensor samples: length=100,stride=50,rate=50,gap=split.")
    ] = None,
    smoothing: Annotated[str | None, typer.Option("--smoothing", help="Of decisions: mean:5, ema:0.3, vote:5,enter=0.6.")] = None,
    detection: Annotated[
        str | None, typer.Option("--detection", help="How boxes are read: head=ssd,... (see the guide).")
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="What outputs mean, if the artifact does not say.")] = None,
    labels: Annotated[str | None, typer.Option("--labels", help="Class names: a file, or a,b,c.")] = None,
    threshold: Annotated[float | None, typer.Option("--threshold", help="Of a score, or of anomalies.")] = None,
    learn: Annotated[int, typer.Option("--learn", help="Learn the anomaly threshold from the first N normal windows.")] = 0,
    track: Annotated[bool, typer.Option("--track", help="Number boxes over frames.")] = False,
    declare: Annotated[bool, typer.Option("--declare", help="Keep what is said of the model in its artifact.json.")] = False,
    duration: Annotated[str | None, typer.Option("--duration", help="Stop after this time: 10s, 5min.")] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after this many results.")] = None,
    summary: Annotated[Path | None, typer.Option("--summary", help="Write the account as JSON to this file at the end.")] = None,
    metrics: Annotated[str | None, typer.Option("--metrics", help="Serve Prometheus at [HOST]:PORT, for example :9464.")] = None,
    dashboard: Annotated[str | None, typer.Option("--dashboard", help="Serve a live page at [HOST]:PORT: :8080.")] = None,
    as_json: Json = False,
) -> None:
    """Run a model on video or sensors in real time; every frame is accounted for.

    Ends when the sources end, after --duration or --count, or with Ctrl-C, and always tells what became of every frame.
    """
    from edgewright.artifact import write_atomic
    from edgewright.runtime.monitor import check_places, serve
    from edgewright.runtime.opening import duration_s, stream_of_texts
    from edgewright.runtime.view import follow, print_account

    seconds = None if duration is None else duration_s(duration)
    check_places(metrics=metrics, dashboard=dashboard)
    running = stream_of_texts(
        model,
        sources,
        out=out or (),
        engine=engine.value if engine else None,
        threads=threads,
        exact=exact,
        policy=policy,
        buffer=buffer,
        workers=workers,
        deadline=deadline,
        rate=rate,
        downscale=downscale,
        fuse=fuse,
        preprocess=preprocess,
        window=window,
        smoothing=smoothing,
        detection=detection,
        task=task,
        labels=labels,
        threshold=threshold,
        learn=learn,
        track=track,
        keep_images=dashboard is not None,
        count=count,
        declare=declare,
    )
    ending: BaseException | None = None
    with running:
        try:
            with serve(running, metrics=metrics, dashboard=dashboard) as page:
                follow(running, page, seconds=seconds, quiet=as_json)
        except (EdgewrightError, KeyboardInterrupt, SystemExit) as error:
            ending = error
    account = running.summary()
    if summary is not None:
        write_atomic(summary, (json.dumps(account, indent=2) + "\n").encode())
    stdout_taken = any(one in ("-", "stdout:") for one in out or ())
    if as_json and not stdout_taken and not isinstance(ending, EdgewrightError):
        invocation_of(context).answer(account)
    elif as_json:  # standard output is the results', or the error's
        sys.stderr.write(json.dumps(account, indent=2) + "\n")
    else:
        print_account(account, sys.stderr if stdout_taken else sys.stdout)
    if ending is not None:
        raise ending
