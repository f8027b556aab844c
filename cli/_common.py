"""What every command shares: its frame of options, its log, and how an error becomes an exit status."""

import argparse
import logging
import sys
from collections.abc import Callable

import bjepa
from bjepa.preproc.errors import InputError

DONE, NOTHING_DONE, WRONG_INPUT, SOME_FAILED = 0, 1, 2, 3
LOG_LEVELS = ("debug", "info", "warning", "error")


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
    except KeyboardInterrupt:
        print(f"{prog}: stopped by the user; what is finished is kept.", file=sys.stderr)
        return NOTHING_DONE
