"""The command line: assembles the verbs, reads settings files, turns errors into one line, a hint and an exit code."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from edgewright import __version__, commands
from edgewright.errors import EdgewrightError, UsageError
from edgewright.terminal import log_to_stderr, say

__all__ = ["app", "main"]

app = typer.Typer(
    name="edgewright",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"auto_envvar_prefix": "EDGEWRIGHT", "help_option_names": ["-h", "--help"]},
    help="Turn a trained model into the file for the device, and prove that it still computes the same thing.",
)
for verb in (commands.convert, commands.verify, commands.inspect, commands.demo):
    app.command()(verb)


@app.callback()
def settings(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' logs, and tracebacks of errors.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.")] = False,
) -> None:
    """Options of all verbs, and the values that settings files give."""
    if version:
        sys.stdout.write(f"edgewright {__version__}\n")
        raise typer.Exit
    log_to_stderr(logging.DEBUG if verbose else logging.WARNING)
    context.default_map = _settings_files()


def main() -> None:
    """Run the command line and end the process with the error's exit code."""
    verbose = bool({"-v", "--verbose"} & set(sys.argv[1:]))
    try:
        code = app(standalone_mode=False, args=_verbose_first(sys.argv[1:]))
    except EdgewrightError as error:
        code = _fail(error, verbose)
    except (KeyboardInterrupt, typer.Abort):
        say("error", "cancelled")
        code = 130
    except typer.Exit as ending:
        code = ending.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:
        code = _surprise(error, verbose)
    sys.exit(code if isinstance(code, int) else 0)


def _verbose_first(arguments: list[str]) -> list[str]:
    """`-v` counts wherever it stands: move it in front of the verb."""
    flags = [word for word in arguments if word in {"-v", "--verbose"}]
    return [*flags[:1], *(word for word in arguments if word not in flags)]


def _fail(error: EdgewrightError, verbose: bool) -> int:
    if verbose:
        logging.getLogger("edgewright").debug("traceback", exc_info=error)
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"error": error.to_json(), "exit_code": error.exit_code}) + "\n")
    say("error", error.message)
    if error.hint:
        say("hint", error.hint)
    return error.exit_code


def _surprise(error: Exception, verbose: bool) -> int:
    """Errors of the command line's own parser, and those that nobody foresaw."""
    show = getattr(error, "format_message", None)
    if show is not None:
        say("error", show())
        context = getattr(error, "ctx", None)
        say("hint", f"{context.command_path} --help lists what there is" if context else "edgewright --help lists what there is")
        return int(getattr(error, "exit_code", 2))
    if verbose:
        logging.getLogger("edgewright").debug("traceback", exc_info=error)
    say("error", f"unexpected {type(error).__name__}: {error}")
    say("hint", "this is a defect of Edgewright: run again with -v and report what it prints")
    return 1


def _settings_files() -> dict[str, Any]:
    """Defaults by verb from ./edgewright.toml, over those of the user's own file.

    Raises:
        UsageError: a file is no valid TOML.
    """
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    merged: dict[str, Any] = {}
    for file in (home / "edgewright" / "edgewright.toml", Path("edgewright.toml")):
        if file.is_file():
            for verb, values in _toml(file).items():
                if not isinstance(values, dict):
                    raise UsageError(
                        f"{file}: '{verb}' stands outside a section", hint="put options into [convert], [verify], ..."
                    )
                merged.setdefault(verb, {}).update({key.replace("-", "_"): value for key, value in values.items()})
    return merged


def _toml(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(file.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is no valid TOML: {error}") from error


if __name__ == "__main__":
    main()
