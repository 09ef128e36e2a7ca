"""The command line: assembles the verbs, reads settings files, turns errors into one line, a hint and an exit code."""

from __future__ import annotations

import difflib
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from edgewright import commands, compress_commands
from edgewright.benchmarks.bench_view_commands import report
from edgewright.benchmarks.commands import bench
from edgewright.benchmarks.compare_commands import compare, history
from edgewright.deploy_commands import deploy, deployed, rollback
from edgewright.devices.commands import devices, doctor
from edgewright.errors import EdgewrightError, UsageError
from edgewright.options import Invocation
from edgewright.run_commands import run
from edgewright.terminal import log_to_stderr, say
from edgewright.version import __version__

__all__ = ["app", "command", "main"]

CANCELLED = 130

app = typer.Typer(
    name="edgewright",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Turn a trained model into the file for the device, and prove that it still computes the same thing.",
    epilog=(
        "An option's value is taken from the command line, else from the environment (EDGEWRIGHT_CONVERT_PRECISION for "
        "convert --precision), else from ./edgewright.toml (precision under [convert]), else from "
        "~/.config/edgewright/edgewright.toml."
    ),
)
app.command(short_help="Compress a model by recipes; evaluate, measure and report.")(compress_commands.compress)
app.command(short_help="Convert a trained model to the file for the device.")(commands.convert)
app.command(short_help="Compare what two models compute on the same samples.")(commands.verify)
app.command(short_help="Tell how good a file is on labelled data.")(compress_commands.evaluate)
app.command(short_help="Measure a file here or on boards: latency, memory, energy.")(bench)
app.command(short_help="Put benchmark reports side by side in one page.")(report)
app.command(short_help="Compare two benchmark reports; fail on a regression.")(compare)
app.command(short_help="Show a model's figures from benchmark to benchmark.")(history)
app.command(short_help="Run a model on video or sensors in real time.")(run)
app.command(short_help="List, add, edit and probe boards.")(devices)
app.command(short_help="Tell what is missing on a board, and what to do.")(doctor)
app.command(short_help="Put a model on a board; switch once it computes the same.")(deploy)
app.command(short_help="Tell what is deployed on a board.")(deployed)
app.command(short_help="Go back to an earlier version on a board.")(rollback)
app.command(short_help="Tell what is in a model file.")(commands.inspect)
app.command(short_help="List the recipes, or show one.")(compress_commands.recipes)
app.command(short_help="List, clear or measure the cache.")(compress_commands.cache)
app.command(short_help="Convert and test the shipped wearable example.")(compress_commands.demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"edgewright {__version__}\n")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show the libraries' logs, and tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Options of all verbs, and the values that settings files give."""
    log_to_stderr(logging.DEBUG if verbose else logging.WARNING)
    context.default_map = _settings_files(context)


def command() -> Any:
    """The parser of the whole command line, every option readable from EDGEWRIGHT_[VERB_]OPTION."""
    group: Any = typer.main.get_command(app)
    for prefix, parser in (("EDGEWRIGHT", group), *((f"EDGEWRIGHT_{name.upper()}", sub) for name, sub in group.commands.items())):
        for option in _options(parser):
            option.envvar = f"{prefix}_{_key(option).upper()}"
            option.show_envvar = False
    return group


def main() -> None:
    """Run the command line and end the process with the error's exit code."""
    _open_what_is_closed()
    arguments = _verbose_first(sys.argv[1:])
    if not arguments:
        with command().make_context("edgewright", [], resilient_parsing=True) as context:
            sys.stderr.write(context.get_help() + "\n")
        sys.exit(2)
    invocation = Invocation(wants_json="--json" in arguments)
    signal.signal(signal.SIGTERM, _end)
    try:
        code = command().main(args=arguments, prog_name="edgewright", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
        if code == CANCELLED:
            code = _fail(EdgewrightError("cancelled"), invocation, CANCELLED)
    except (KeyboardInterrupt, typer.Abort):
        code = _fail(EdgewrightError("cancelled"), invocation, CANCELLED)
    except typer.Exit as ending:
        code = ending.exit_code
    except BrokenPipeError:
        code = _mute_stdout()
    except Exception as error:
        code = _fail(_as_ours(error, invocation), invocation)
    sys.exit(code if isinstance(code, int) else 0)


def _open_what_is_closed() -> None:
    """Python has no object for a standard stream that was closed before it started: what goes there goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))


def _end(number: int, _: Any) -> None:
    """End through the context managers, which stop children and remove what is half-written."""
    raise SystemExit(128 + number)


def _verbose_first(arguments: list[str]) -> list[str]:
    """`-v` counts wherever it stands before `--`: move it in front of the verb."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = [word for word in arguments[:end] if word in {"-v", "--verbose"}]
    return [*flags[:1], *(word for word in arguments[:end] if word not in flags), *arguments[end:]]


def _fail(error: EdgewrightError, invocation: Invocation, code: int | None = None) -> int:
    """Tell an error on standard error, and as JSON on standard output if the verb was to answer in JSON and has not."""
    code = error.exit_code if code is None else code
    log = logging.getLogger("edgewright")
    if log.isEnabledFor(logging.DEBUG) and code != CANCELLED:
        log.debug("traceback", exc_info=error.__cause__ if type(error) is EdgewrightError and error.__cause__ else error)
    say("error", error.message)
    if error.hint:
        say("hint", error.hint)
    try:
        if invocation.wants_json and not invocation.answered:
            invocation.answer({"error": error.to_json(), "exit_code": code})
        sys.stdout.flush()
    except OSError:
        _mute_stdout()
    return code


def _mute_stdout() -> int:
    """Send what is left to nowhere: the reader of standard output is gone, or its disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _as_ours(error: Exception, invocation: Invocation) -> EdgewrightError:
    """Errors of the parser, of the disk behind standard output, and those that nobody foresaw, as errors of ours."""
    if isinstance(error, EdgewrightError):
        return error
    said = getattr(error, "format_message", None)
    if said is not None:
        found: EdgewrightError = UsageError(said(), _where_to_look(error, invocation))
    elif isinstance(error, OSError) and error.filename is None and error.errno is not None:
        found = EdgewrightError(f"cannot write the output: {error.strerror}", hint="check free space where it goes")
    else:
        found = EdgewrightError(
            f"unexpected {type(error).__name__}: {error}",
            hint="this is a defect of Edgewright: run again with -v and report what it prints",
        )
    found.__cause__ = error
    return found


def _where_to_look(error: Exception, invocation: Invocation) -> str:
    """The origin of a wrong value if it was not typed, else the help that lists what there is."""
    context, option = getattr(error, "ctx", None), getattr(error, "param", None)
    if context is None:
        return "edgewright --help lists what there is"
    source = context.get_parameter_source(option.name) if option is not None else None
    if option is not None and source is not None and source.name == "DEFAULT_MAP":
        return f"the value stands in {invocation.origins[context.info_name, option.name]}"
    if option is not None and source is not None and source.name == "ENVIRONMENT":
        return f"the value comes from the environment: {option.envvar}"
    return f"{context.command_path} --help lists what there is"


def _options(parser: Any) -> Iterator[Any]:
    """A verb's options, without its arguments."""
    return (param for param in parser.params if param.param_type_name == "option")


def _key(option: Any) -> str:
    """An option's name in a settings file: its long flag without the dashes in front, "_" for "-"."""
    return str(max(option.opts, key=len)).lstrip("-").replace("-", "_")


def _settings_files(context: typer.Context) -> dict[str, Any]:
    """Defaults by verb from ./edgewright.toml, over those of the user's own file.

    Raises:
        UsageError: a file is no valid TOML, or has a section or an option that there is not.
    """
    parsers: dict[str, Any] = getattr(context.command, "commands", {})
    merged: dict[str, Any] = {}
    for file in _settings_paths():
        if not file.is_file():
            continue
        for verb, values in _toml(file).items():
            if not isinstance(values, dict):
                raise UsageError(f"{file}: '{verb}' stands outside a section", hint="put options into [convert], [verify], ...")
            if verb not in parsers:
                raise UsageError(f"{file}: there is no verb for section [{verb}]", hint=f"known: {', '.join(parsers)}")
            known = {_key(option): option for option in _options(parsers[verb]) if _key(option) != "help"}
            for key, value in values.items():
                option = known.get(key.replace("-", "_"))
                if option is None:
                    raise _unknown_key(file, verb, key, list(known))
                merged.setdefault(verb, {})[option.name] = [value] if option.multiple and isinstance(value, str) else value
                if isinstance(context.obj, Invocation):
                    context.obj.origins[verb, option.name] = str(file)
    return merged


def _unknown_key(file: Path, verb: str, key: str, known: list[str]) -> UsageError:
    """The error of a key that is no option; names the nearest one first."""
    names = [name.replace("_", "-") for name in known]
    near = difflib.get_close_matches(key.replace("_", "-"), names, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return UsageError(f"{file}: [{verb}] has '{key}', which is no option of {verb}", hint=f"{hint}known: {', '.join(names)}")


def _settings_paths() -> list[Path]:
    """The user's file, then the one in the working folder, which wins."""
    here = Path("edgewright.toml")
    try:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError:  # no home folder, as in some containers
        return [here]
    return [home / "edgewright" / "edgewright.toml", here]


def _toml(file: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", hint="check its rights") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} is no valid TOML: {error}", hint="write for example: [convert] and below it to = 'tflite'"
        ) from error


if __name__ == "__main__":
    main()
