"""What every command shares: its frame of options, its log, and how an error becomes an exit status."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

import bjepa
from bjepa.preproc.errors import InputError

DONE, NOTHING_DONE, WRONG_INPUT, SOME_FAILED = 0, 1, 2, 3
LOG_LEVELS = ("debug", "info", "warning", "error")


_WRONG_PATH = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


class _Parser(argparse.ArgumentParser):
    """Shows its examples as written, and keeps exit status 2 for usage."""

    def __init__(self, prog: str, description: str, examples: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )


def command_parser(prog: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser with the options that every command has: `--help`, `--version`, `--log-level`."""
    parser = _Parser(prog, description, examples)
    parser.add_argument("--version", action="version", version=f"{prog} {bjepa.__version__}")
    parser.add_argument("--log-level", choices=LOG_LEVELS, default="info", help="default: info")
    return parser


def add_atlas_dir(group: "argparse._ArgumentGroup | argparse.ArgumentParser") -> None:
    """The option `--atlas-dir`, with its default from the environment."""
    default = os.environ.get("BJEPA_ATLAS_DIR")
    group.add_argument(
        "--atlas-dir",
        type=Path,
        default=Path(default) if default else None,
        help="folder searched (recursively) for the published atlas files before any download "
        "(default: BJEPA_ATLAS_DIR)",
    )


def number(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a finite number from `low` to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from error
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be from {low:g} to {high:g}, got {text}")
        return value

    return parse


def at_least(low: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low`."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from error
        if value < low:
            raise argparse.ArgumentTypeError(f"must be {low} or more, got {value}")
        return value

    return parse


def run(command: Callable[[argparse.Namespace], int], args: argparse.Namespace, *, prog: str) -> int:
    """Set up the log on stderr, run the command, and turn a refused input into exit status 2."""
    logging.basicConfig(
        level=args.log_level.upper(),
        format=f"{prog}: %(levelname)s: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.captureWarnings(True)
    try:
        return command(args)
    except InputError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except FloatingPointError as error:  # a network that diverged
        logging.getLogger(prog).debug("traceback:", exc_info=True)
        print(f"{prog}: error: {error}", file=sys.stderr)
        return NOTHING_DONE
    except OSError as error:  # a folder that cannot be written, a full disk
        logging.getLogger(prog).debug("traceback:", exc_info=True)
        where = error.filename if error.filename is not None else "the file system"
        print(
            f"{prog}: error: {where}: {error.strerror or error}. Check path, rights and space.",
            file=sys.stderr,
        )
        return WRONG_INPUT if isinstance(error, _WRONG_PATH) else NOTHING_DONE
    except KeyboardInterrupt:
        print(f"{prog}: stopped by the user; what is finished is kept.", file=sys.stderr)
        return NOTHING_DONE
