"""What people see of boards in the terminal: lists, profiles, what a board has, what it lacks."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from edgewright.devices.checks import Check, size_text

if TYPE_CHECKING:
    from edgewright.devices.boards import Board

__all__ = ["PRINTERS", "print_checks", "working"]

log = logging.getLogger("edgewright")

_STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red", "not checked": "dim"}


@contextmanager
def working(title: str) -> Iterator[Callable[[str], None]]:
    """A line on standard error that says what is being done; nothing when that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True, markup=False, emoji=False).status(title) as status:
        yield lambda text: status.update(_plain(text))


def print_checks(board: Board, found: Sequence[Check]) -> None:
    """The checks of a board, each with what to do below it."""
    console, table = _console(), _table("check", "", "found")
    from rich.text import Text

    table.columns[1].no_wrap = True
    for check in found:
        text = Text(_plain(check.reason), style="dim" if check.state == "not checked" else "")
        if check.todo and check.state != "ok":
            text.append(f"\n-> {_plain(check.todo)}", style="cyan")
        table.add_row(check.name, Text(check.state, style=_STYLES[check.state]), text)
    where = f"{board.transport} {board.address}".strip()
    console.print(_plain(f"{board.name}: {board.title}" + (f", {where}" if where != board.name else "")))
    console.print()
    console.print(table)
    console.print()
    lacking = [check.name for check in found if check.needed and check.state not in ("ok", "warning")]
    if lacking:
        unseen = [check.name for check in found if check.name in lacking and check.state == "not checked"]
        missing = [name for name in lacking if name not in unseen]
        rest = f"{'; not checked: ' if missing else 'not checked: '}{', '.join(unseen)}" if unseen else ""
        console.print(f"not ready: {', '.join(missing)}{rest}", style="red")
    else:
        warned = [check.name for check in found if check.state == "warning"]
        console.print("ready" + (f", with a warning about {', '.join(warned)}" if warned else ""), style="green")


def _print_list(found: Mapping[str, Any]) -> None:
    console, table = _console(), _table("name", "board", "reached by", "engines", "meters", "from")
    for board in found["boards"]:
        lists = (", ".join(board[key]) or ("any" if board["name"] == "local" else "-") for key in ("engines", "meters"))
        table.add_row(*map(_plain, (board["name"], board["title"], _reached(board), *lists, board["origin"])))
    for one in found["invalid"]:
        table.add_row(*map(_plain, (one["name"], "cannot be read", "-", "-", "-", "own")), style="red")
    console.print(table)
    console.print()
    for one in found["invalid"]:
        log.warning("%s", one["error"]["message"])
    if not any(board["origin"] == "own" for board in found["boards"]):
        console.print("add yours: edgewright devices add pi5 --profile raspberry_pi_5 --address pi@HOST", style="dim")


def _print_board(found: Mapping[str, Any]) -> None:
    console, board = _console(), found["board"]
    limits = {key: size_text(board[f"{key}_bytes"]) if board[f"{key}_bytes"] else "no limit named" for key in ("ram", "flash")}
    facts = {
        "name": board["name"],
        "board": board["title"],
        "architecture": board["architecture"] or "any",
        "reached by": _reached(board),
        "python": board["python"],
        "folder": board["folder"],
        "engines": ", ".join(board["engines"]) or "any",
        "meters": ", ".join(board["meters"]) or "any",
        "governor": board["governor"] or "as it is",
        "memory": limits["ram"],
        "our folder": limits["flash"],
        **{f"option {key}": value for key, value in board["options"].items()},
        "file": board["file"] or "none: it is built in",
    }
    _print_facts(console, facts)
    if found["text"]:
        console.print()
        console.print(_plain(found["text"].rstrip("\n")), style="dim")


def _print_added(found: Mapping[str, Any]) -> None:
    _print_board(found)
    console, name = _console(), found["board"]["name"]
    console.print()
    console.print(_plain(f"next: edgewright doctor {name}"), style="dim")


def _print_edited(found: Mapping[str, Any]) -> None:
    if not found["changed"]:
        _console().print("nothing was changed")
        return
    _print_board(found)


def _print_removed(found: Mapping[str, Any]) -> None:
    _console().print(_plain(f"removed: {found['file']}"))


def _print_probe(found: Mapping[str, Any]) -> None:
    console, machine = _console(), found["machine"]
    memory = machine["memory_bytes"]
    governors = {policy["governor"] for policy in found["cpufreq"].values()} - {""}
    slow = found["throttling"]
    facts = {
        "board": f"{found['board']['name']}: {machine['model'] or found['board']['title']}",
        "system": f"{machine['system']} {machine['release']}, {machine['architecture']}, {machine['cores']} cores",
        "memory": "not told" if memory is None else size_text(memory),
        "python": f"{found['python']} ({machine['executable']}), NumPy {found['numpy']}",
        "runtime": found["runtime"]["folder"],
        "governor": ", ".join(sorted(governors)) or "none can be read",
        "frequency": _frequencies(found["cpufreq"]),
        "temperature": ", ".join(f"{name} {value:.0f} C" for name, value in found["temperature_c"].items()) or "none can be read",
        "slowed down": ", ".join(slow["now"]) or ("not now" if slow["asked"] else "nothing tells"),
    }
    _print_facts(console, facts)
    console.print()
    table = _table("engine", "release")
    for name, release in found["engines"].items():
        table.add_row(_plain(name), _plain(release or "not installed"))
    console.print(table)
    console.print()
    table = _table("meter", "can be read")
    for meter in found["meters"]:
        told = "yes" if meter["available"] else f"no: {meter['why']}"
        table.add_row(_plain(meter["name"]), "stands beside the board: --meter names it" if meter["external"] else _plain(told))
    console.print(table)


PRINTERS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "list": _print_list,
    "show": _print_board,
    "add": _print_added,
    "edit": _print_edited,
    "remove": _print_removed,
    "probe": _print_probe,
}
"""What prints the answer of each action of `devices`."""


def _reached(board: Mapping[str, Any]) -> str:
    transport, address = str(board["transport"]), str(board["address"])
    return (
        f"{transport} {address}"
        if address
        else {"ssh": "ssh, no address", "adb": "adb, the only device"}.get(transport, transport)
    )


def _frequencies(policies: Mapping[str, Any]) -> str:
    told = []
    for name, policy in policies.items():
        hz = policy["frequency_hz"]
        if "cur" in hz and "max" in hz:
            told.append(f"{name} {hz['cur'] / 1e6:.0f} of at most {hz['max'] / 1e6:.0f} MHz")
    return ", ".join(told) or "none can be read"


def _console() -> Any:
    """Standard output; as wide as the terminal, or wide enough for every table when it goes to a file."""
    from rich.console import Console

    # Names come from boards and users: "[x]" and ":x:" in them are no markup.
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)


def _table(*titles: str) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _print_facts(console: Any, facts: Mapping[str, str]) -> None:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(_plain(name), _plain(value))
    console.print(table)


def _plain(text: str) -> str:
    """Text without control characters, which a board could send to the terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)
