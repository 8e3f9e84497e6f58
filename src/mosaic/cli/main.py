"""The ``mosaic`` command. Each subcommand imports what it needs when it is called."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NoReturn, cast

from mosaic import __version__
from mosaic.cli.commands import ALL_OPTIONS, FUNCTIONS
from mosaic.cli.complaints import one_line
from mosaic.cli.configs import find_configs
from mosaic.errors import MosaicError
from mosaic.training.signals import INTERRUPTED, Preempted, end_with_first_process, finishing, leaving_at_once

CUT_OFF = 141
"""Exit code of a command whose output nobody reads to its end, as shells count SIGPIPE."""
_COMMANDS = {
    "fit": "run a federation: rounds on clients and server, one run directory",
    "validate": "measure a run's global model on the clients' validation images",
    "test": "measure a run's global model on the test split",
    "predict": "write a run's guesses on the test split as a table",
    "partition": "show who holds what, without training",
    "compare": "run several algorithms on several seeds at equal budgets, and write one table",
    "audit": "attack what every client of a simulation has uploaded, and say what that reveals about its images",
    "report": "write one self-contained HTML page about a run, or about several side by side",
    "client": "answer for one client whose images are on this host, in a federation over a network",
    "deploy": "write what each party of a federation over a network needs: folders, keys, scripts",
    "export": "write a run's global model as safetensors, ONNX or torch.export program",
    "configs": "list the example configurations that come with mosaic, or copy them",
    "schema": "print a JSON schema of the configuration, for editors",
    "completion": "print a script by which bash or zsh completes commands and options",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: arguments, for use from tests and notebooks; those of the process when not given.

    Raises:
        SystemExit: with one line on standard error and a code: 2 where the request is at fault, 1 where something
            fails that should work, 69 where too few clients answer, 75 where a signal asks this process to leave, 130
            for Ctrl-C.
    """
    end_with_first_process()
    given = list(sys.argv[1:] if args is None else args)
    match given[:1]:
        case ["--version"]:
            print(f"mosaic {__version__}")
        case [] | ["-h"] | ["--help"]:
            print(_overview())
        case _:
            _exit_on_error(lambda: _run(*given, from_process=args is None))


def _overview() -> str:
    demo = find_configs() / "digits.yaml"
    demo = demo.relative_to(Path.cwd()) if demo.is_relative_to(Path.cwd()) else demo
    lines = "\n".join(f"  {name:10}  {meaning}" for name, meaning in _COMMANDS.items())
    usage = "usage: mosaic COMMAND [options]        mosaic COMMAND --help says what each takes"
    return f"{usage}\n\n{lines}\n\nstart here: mosaic fit --config {demo}"


def _run(command: str, *given: str, from_process: bool) -> None:
    if command not in _COMMANDS:
        raise MosaicError(f"expected a command, one of {', '.join(_COMMANDS)}, got {command}: see mosaic --help")
    if command in ("audit", "client", "partition", "fit", "validate", "test", "predict"):
        from mosaic.federation.progress import configure_logging

        configure_logging()
    match command:
        case "compare":
            from mosaic.comparison.command import require_all

            try:
                written = _call(command, given, fit=run_lightning, check=check, named=str)
            except Preempted as leaving:
                leaving.when = f"{leaving.when.partition(':')[0]}: the same command goes on with it"
                raise
            require_all(cast(tuple[Path, list[object], object], written)[1])
        case "audit":
            print(f"Audit: {_call(command, given)}")
        case "report":
            print(f"Report: {_report(given)}")
        case "export":
            print(f"Exported: {_call(command, given)}")
        case "configs" | "schema" | "completion":
            _say(_call(command, given))
        case "client":
            from mosaic.cli.client import client

            client(given)
        case "deploy":
            from mosaic.cli.agreed import require_agreed

            print(f"Written: {_call(command, given, require=require_agreed)}")
        case "partition":
            from mosaic.cli.partition import partition
            from mosaic.training.silence import expected_warnings

            with expected_warnings():
                partition(given)
        case _:
            from mosaic.federation.progress import first_rank
            from mosaic.report.summary import print_summary

            folder = run_lightning(None if from_process else [command, *given])
            if folder is not None and folder.is_dir() and first_rank():
                with finishing():
                    print_summary(folder)


def run_lightning(arguments: Sequence[str] | None) -> Path | None:
    """Run one of Lightning's subcommands; leave errors, the log and the closing tables to the caller.

    Args:
        arguments: they begin with the subcommand; those of the process when not given.

    Returns:
        The run's folder, if the subcommand is ``fit``.
    """
    from mosaic.cli.lightning import run

    with one_line():
        return run(arguments)


def check(arguments: Sequence[str]) -> Any:
    """Make all that arguments of ``mosaic fit`` name, without a look at an image.

    Args:
        arguments: they begin with the subcommand.

    Returns:
        What each section has made, by its name.

    Raises:
        MosaicError: they name or hold what cannot be made.
    """
    from mosaic.cli.lightning import CheckedCLI, parse_and_run

    with one_line():
        return parse_and_run(CheckedCLI, arguments).config_init.fit


def _call(command: str, given: Sequence[str], **known: object) -> object:
    """Call a command's function with arguments of the command line and those in ``known``."""
    function, parser = resolve_name(FUNCTIONS[command]), _parser(command)
    parser.add_function_arguments(function, as_group=False, as_positional=command not in ALL_OPTIONS, skip=set(known))
    return function(**known, **parser.instantiate(parser.parse_args(list(given))).as_dict())


def _parser(command: str) -> Any:
    """Return a parser that takes whole names only, as YAML does, and raises on a bad request."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(
        prog=f"mosaic {command}", description=_COMMANDS[command], exit_on_error=False, allow_abbrev=False
    )


def _report(given: Sequence[str]) -> Path:
    """Write the page about one run, or about several side by side."""
    parser = _parser("report")
    parser.add_argument("runs", type=Path, nargs="+", help="folders of runs, finished or not")
    parser.add_argument("--output", type=Path, help="file to write; an older report is replaced")
    chosen = parser.parse_args(list(given))
    from mosaic.report.html import report
    from mosaic.report.side_by_side import report_side_by_side

    several = len(chosen.runs) > 1
    return report_side_by_side(chosen.runs, chosen.output) if several else report(chosen.runs[0], chosen.output)


def _exit_on_error(request: Callable[[], None]) -> None:
    """Carry out a request; a user's mistake or a signal ends the process with one line."""
    try:
        with leaving_at_once(), one_line():
            request()
    except Preempted as leaving:
        if leaving.code == 0:  # another rank speaks for all
            raise
        _leave(str(leaving), code=int(leaving.code or 0))
    except KeyboardInterrupt:  # what runs inside may have put back Python's own handler
        _leave("interrupted", code=INTERRUPTED)
    except MosaicError as mistake:
        _leave(f"error: {mistake}", mistake.exit_code)


def _say(text: object) -> None:
    """Print a text that a program may not read to its end, such as ``head``."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python would try once more as it ends
        raise SystemExit(CUT_OFF) from None


def _leave(message: str, code: int) -> NoReturn:
    print(f"mosaic: {message}", file=sys.stderr)
    raise SystemExit(code)
