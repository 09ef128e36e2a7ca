"""The verbs `devices` and `doctor`."""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from edgewright.errors import UsageError
from edgewright.options import Json, invocation_of

__all__ = ["devices", "doctor"]

log = logging.getLogger("edgewright")


class Action(str, Enum):
    """What to do with boards."""

    list = "list"
    show = "show"
    add = "add"
    edit = "edit"
    remove = "remove"
    probe = "probe"


_OPTIONS = {
    Action.list: (),
    Action.show: (),
    Action.add: ("profile", "address", "python", "assignments"),
    Action.edit: ("address", "python", "assignments", "unset"),
    Action.remove: (),
    Action.probe: ("wheels", "wait"),
}
"""The options that each action takes, by parameter."""

_FLAGS = {"assignments": "set"}

Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait while another run has the board.")]


def devices(
    context: typer.Context,
    action: Annotated[Action, typer.Argument(help="list, show, add, edit, remove or probe.")] = Action.list,
    name: Annotated[str | None, typer.Argument(help="The board.")] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="add: the profile that the board begins with.")] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Where it is: USER@HOST[:PORT] for SSH, a serial number for ADB.")
    ] = None,
    python: Annotated[str | None, typer.Option("--python", help="The Python there.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", help='Set a key of the profile: --set limits.ram="2 GiB"; several times.'),
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", help="edit: take a key away; the profile behind it counts again.")
    ] = None,
    wheels: Annotated[
        Path | None, typer.Option("--wheels", help="probe: a folder of wheels (NumPy, engine) to bring there first.")
    ] = None,
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """List boards, show, add, edit or remove one, or ask one what it has.

    Without --set and --unset, edit opens the file in $EDITOR. probe brings Edgewright's runtime onto the board.
    """
    from edgewright.devices import board_tables

    _require_arguments(context, action, name)
    changes = _changes(assignments, unset, address, python)
    if action is Action.list:
        found: dict[str, Any] = _listed()
    elif action is Action.add:
        found = _add(str(name), profile, changes)
    elif action is Action.edit:
        found = _edit(str(name), changes)
    elif action is Action.remove:
        found = _remove(str(name))
    elif action is Action.show:
        found = _show(str(name))
    else:
        found = _probe(str(name), wheels, wait)
    if as_json:
        invocation_of(context).answer(found)
    else:
        board_tables.PRINTERS[action.value](found)


def doctor(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The board; this machine if none is named.")] = "local",
    wait: Wait = 0.0,
    as_json: Json = False,
) -> None:
    """Tell what is missing on a board, and what to do about each thing; exit code 1 if it cannot run models."""
    from edgewright.devices.board_tables import print_checks, working
    from edgewright.devices.boards import find_board
    from edgewright.devices.doctor import examine, is_ready

    board = find_board(name)
    with working(f"looking at {name}") as tell:
        found = examine(board, wait_s=wait, on_wait=log.warning, on_check=lambda check: tell(f"looking at {name}: {check}"))
    ready = is_ready(found)
    if as_json:
        checks = [check.to_json() for check in found]
        invocation_of(context).answer({"schema": 1, "board": board.to_json(), "ready": ready, "checks": checks})
    else:
        print_checks(board, found)
    if not ready:
        raise typer.Exit(1)


def _require_arguments(context: typer.Context, action: Action, name: str | None) -> None:
    """Refuse a name or an option that the action does not take, and a name that it lacks; settings files may set any option."""
    if action is Action.list and name is not None:
        raise UsageError(f"list takes no board, here it is '{name}'", hint=f"edgewright devices show {name}")
    if action is not Action.list and name is None:
        raise UsageError(f"{action.value} needs the name of a board", hint=f"edgewright devices {action.value} NAME")
    for param in context.command.params:
        source = context.get_parameter_source(str(param.name))
        option = max(param.opts, key=len)
        known = ("action", "name", "as_json", *_OPTIONS[action])
        if source is not None and source.name == "COMMANDLINE" and param.name not in known and param.name != "help":
            takes = ", ".join(f"--{_FLAGS.get(one, one)}" for one in _OPTIONS[action]) or "no options"
            raise UsageError(f"{option} means nothing to {action.value}", hint=f"{action.value} takes {takes}")


def _changes(
    assignments: list[str] | None, unset: list[str] | None, address: str | None, python: str | None
) -> dict[tuple[str, ...], Any]:
    """What is to be set in a profile, by key; None takes a key away."""
    from edgewright.devices.board_edit import parse_changes

    changes = parse_changes(assignments or (), unset or ())
    for key, value in (("address", address), ("python", python)):
        if value is not None and (key,) in changes:
            raise UsageError(f"--{key} and --set or --unset {key} are both given", hint="give one of them")
        if value is not None:
            changes[key,] = value
    return changes


def _listed() -> dict[str, Any]:
    """All boards, and those of the user's files that are none."""
    from edgewright.devices.boards import LOCAL, board_files, board_names, read_board, require_name

    own = board_files()
    found: list[dict[str, Any]] = []
    invalid: list[dict[str, Any]] = []
    for name in [*board_names(), *({LOCAL} & set(own))]:
        try:
            if name == LOCAL and found:
                require_name(name)  # a file of that name is never read
            board = read_board(name)
        except UsageError as error:
            invalid.append({"name": name, "file": str(own[name]), "error": error.to_json()})
            continue
        origin = "own" if board.file and name in own else "shipped" if board.file else "built in"
        found.append({**board.to_json(), "origin": origin, "has_address": not board.needs_address})
    return {"schema": 1, "boards": found, "invalid": invalid}


def _show(name: str) -> dict[str, Any]:
    from edgewright.devices.boards import read_board

    board = read_board(name)
    text = board.file.read_text(encoding="utf-8-sig") if board.file else ""
    return {"schema": 1, "board": board.to_json(), "text": text}


def _add(name: str, profile: str | None, changes: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    from edgewright.devices.board_edit import edited
    from edgewright.devices.board_text import near
    from edgewright.devices.boards import board_names, boards_folder, parse_board, save_board

    known = board_names()
    if profile is None and ("transport",) not in changes and ("extends",) not in changes:
        raise UsageError("a new board needs the profile that it begins with", hint=f"add --profile, one of {', '.join(known)}")
    if profile is not None and profile not in known:
        raise UsageError(f"there is no profile '{profile}'", hint=f"{near(profile, known)}known: {', '.join(known)}")
    if profile is not None and ("extends",) in changes:
        raise UsageError("--profile and --set extends are both given", hint="give one of them")
    source = str(boards_folder() / f"{name}.toml")
    first: dict[tuple[str, ...], Any] = {("extends",): profile} if profile else {}
    text = edited("", {**first, **changes}, source).text
    if parse_board(name, text, source).needs_address:
        raise UsageError(f"nothing says where the board '{name}' is", hint="add --address USER@HOST or --address USER@HOST:PORT")
    board = save_board(name, text, new=True)
    return {"schema": 1, "board": board.to_json(), "text": text}


def _edit(name: str, changes: dict[tuple[str, ...], Any]) -> dict[str, Any]:
    from edgewright.devices.board_edit import edit_by_hand, edited
    from edgewright.devices.boards import board_files, own_text, save_board

    before = own_text(name)
    if changes:
        edit = edited(before, changes, str(board_files()[name]))
        board, text, kept = save_board(name, edit.text), edit.text, edit.kept
    else:
        text, kept = edit_by_hand(name, before), True
        board = save_board(name, text)
    if not kept:
        log.warning("%s was written anew, without its comments: a value in it stands on several lines", board.file)
    return {"schema": 1, "board": board.to_json(), "text": text, "changed": text != before, "comments_kept": kept}


def _remove(name: str) -> dict[str, Any]:
    from edgewright.devices.boards import remove_board

    return {"schema": 1, "removed": name, "file": str(remove_board(name))}


def _probe(name: str, wheels: Path | None, wait_s: float) -> dict[str, Any]:
    from edgewright.devices.board_tables import working
    from edgewright.devices.device import open_device
    from edgewright.devices.doctor import probe

    with (
        working(f"reaching {name}") as tell,
        open_device(name, what="devices probe", wait_s=wait_s, on_wait=log.warning) as device,
    ):
        return probe(device, wheels, lambda share, text: tell(text))
