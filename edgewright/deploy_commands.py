"""The verbs `deploy`, `rollback` and `deployed`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgewright.options import (
    EngineName,
    Json,
    Memory,
    PreprocessOption,
    SamplesOption,
    Stride,
    Timeout,
    Window,
    invocation_of,
    limits_of,
    origins_of,
)
from edgewright.terminal import (
    add_row,
    console_of_stdout,
    folded,
    new_table,
    print_facts,
    print_table,
    progress_bar,
    say,
)

__all__ = ["deploy", "deployed", "rollback"]

DeviceName = Annotated[str, typer.Argument(metavar="DEVICE", help="A board: edgewright devices lists them.")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for another run that holds the board.")]


def deploy(
    context: typer.Context,
    artifact: Annotated[Path, typer.Argument(help="A .tflite, .onnx or OpenVINO .xml file.")],
    device: DeviceName,
    name: Annotated[str | None, typer.Option("--name", help="Of the model there.  [default: the file's, without suffix]")] = None,
    engine: Annotated[
        EngineName | None, typer.Option("--engine", help="Runs it there.  [default: the board's first that can]")
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option("--wheels", help="Folder of wheels (NumPy, an engine) for a board that has none.")
    ] = None,
    keep: Annotated[int, typer.Option("--keep", min=1, help="Versions that stay on the board.")] = 3,
    samples: SamplesOption = None,
    window: Window = None,
    stride: Stride = None,
    preprocess: PreprocessOption = None,
    wait: Wait = 0.0,
    timeout: Timeout = 600,
    memory_limit: Memory = None,
    as_json: Json = False,
) -> None:
    """Put a model on a board as its next version; it runs there once it computes what it computes here.

    The file is pushed into a slot of its own and checked by sha256; golden vectors (kept beside the model) are computed by the
    board's engine and compared; then one rename makes it current. Whatever fails or is killed, the old version runs on. A
    file that runs there already is verified again, with new golden vectors if --samples are others.
    """
    from edgewright import deployment
    from edgewright.commands import data_of

    with progress_bar(f"deploying {artifact.name}") as update:
        done = deployment.deploy(
            artifact,
            device,
            name=name,
            engine=engine.value if engine else None,
            wheels=wheels,
            samples=data_of(samples, window, stride, preprocess, None, 0),
            wait_s=wait,
            keep=keep,
            limits=limits_of(timeout, memory_limit),
            progress=update,
            on_wait=lambda text: say("note", text),
        )
    _answer(context, done, as_json)


def rollback(
    context: typer.Context,
    device: DeviceName,
    name: Annotated[str, typer.Argument(help="Of the model there.")],
    to: Annotated[int | None, typer.Option("--to", min=1, help="Number of a slot.  [default: the version before]")] = None,
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """Make an earlier version of a model run again, once it has computed its golden vectors on the board."""
    from edgewright import deployment

    with progress_bar(f"rolling {name} back") as update:
        done = deployment.rollback(device, name, to=to, wait_s=wait, progress=update, on_wait=lambda text: say("note", text))
    _answer(context, done, as_json)


def deployed(
    context: typer.Context,
    device: DeviceName,
    name: Annotated[str | None, typer.Argument(help="One model: its history too.")] = None,
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """List the models that run on a board; with a name, its versions and who switched to them when."""
    from edgewright import deployment

    found = deployment.deployed(device, name, wait_s=wait)
    if as_json:
        invocation_of(context).answer({"device": device, **found})
        return
    console = console_of_stdout()
    if not found["models"]:
        console.print(f"nothing is deployed on {device}")
        return
    table = new_table([(title, "left") for title in ("name", "runs", "model", "sha256", "since", "by", "versions")])
    for one, model in found["models"].items():
        now = model["current"]
        last: Mapping[str, Any] = next((entry for entry in reversed(model["history"]) if entry.get("action") != "verify"), {})
        slots = ", ".join(str(slot["slot"]).partition("-")[0] for slot in model["slots"])
        by = f"{last.get('user', '?')}@{last.get('host', '?')}"
        add_row(table, one, now["slot"], now["model"], now["sha256"][:12], str(last.get("when", "?")), by, slots)
    print_table(console, None, table)
    if name is not None:
        _print_history(console, found["models"][name]["history"])


def _print_history(console: Any, history: list[dict[str, Any]]) -> None:
    """What was switched to, newest first."""
    table = new_table([(title, "left") for title in ("when", "what", "slot", "before", "model", "by", "golden vectors")])
    for entry in reversed(history):
        by = f"{entry.get('user', '?')}@{entry.get('host', '?')}"
        words = [str(entry.get(key) or "-") for key in ("when", "action", "slot", "from", "model")]
        add_row(table, *words, by, _golden_words(entry.get("golden") or {}))
    print_table(console, "history", table)


def _answer(context: typer.Context, done: Mapping[str, Any], as_json: bool) -> None:
    """What a deploy or a rollback did."""
    if as_json:
        invocation_of(context).answer({**done, "options": origins_of(context)})
        return
    console = console_of_stdout()
    facts = {
        "device": done["device"],
        "runs": f"{done['name']} {done['slot']}",
        **({"note": _again_words(done)} if done["unchanged"] else {"before": done["from"] or "nothing"}),
        "model there": folded(done["model"], max(20, console.width - 20)),
        "golden vectors": _golden_words(done["golden"]),
    }
    if done["removed"]:
        facts["removed"] = ", ".join(done["removed"])
    print_facts(console, facts)


def _again_words(done: Mapping[str, Any]) -> str:
    """What a deploy of the version that runs did."""
    return f"this file is there already: it was verified again{', with new golden vectors' if done['new_golden'] else ''}"


def _golden_words(golden: Mapping[str, Any]) -> str:
    """How well the board's outputs agree, in words."""
    if not golden:
        return "-"
    worst = max(golden["outputs"], key=lambda row: float(row["difference"]), default=None)
    same = "equal outputs"
    if worst and any(row["equal"] < 1 for row in golden["outputs"]):
        step = " LSB" if "LSB" in worst["rule"] else ""
        same = f"outputs differ by {worst['difference']:.3g}{step} at most ('{worst['name']}', allowed: {worst['rule']})"
    return f"{golden['calls']} inferences ({golden['source']}), {same}, {golden['library']}"
