# SPDX-License-Identifier: Apache-2.0
"""The command line. Each command is one file here, imported when it is asked for; `--help` reads docstrings only.

Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted (can be resumed).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from luthier.core import registry
from luthier.core.errors import Interrupted, LuthierError, UserError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Read when torch loads OpenMP. By default idle threads spin for milliseconds: beside one other busy process on two
    # cores, 30 steps of the built-in model took 53.7 s so, and 11.1 s with this.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        with _stoppable():
            code = _dispatch(words)
    except LuthierError as error:
        _report(error, as_json="--json" in words)
        code = error.exit_code
    if code:
        sys.exit(code)


def _dispatch(words: list[str]) -> int:
    """Run the command that the first word names; return its exit code."""
    commands = registry.entries("cli")
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview(commands))
        return 0
    if words[0] in ("-V", "--version"):
        from luthier import __version__

        sys.stdout.write(f"luthier {__version__}\n")
        return 0
    if words[0] not in commands:
        raise UserError("luthier", f"unknown command {words[0]!r}", did_you_mean(words[0], commands))
    import typer

    module = registry.get("cli", words[0])
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command(help=module.__doc__)(module.main)
    where = f"luthier {words[0]}"
    try:
        code = app(words[1:], prog_name=where, standalone_mode=False)
    except typer.TyperException as error:  # a missing argument, an unknown option
        raise UserError(where, error.format_message().rstrip("."), fix=f"`{where} --help` lists its words") from None
    if code == Interrupted.exit_code:  # typer turns a KeyboardInterrupt into this number, without a word
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM outside the training loop into exit code 130.

    Raises:
        Interrupted: One of them arrived.
    """
    main_thread = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
    before, hook = (
        signal.signal(signal.SIGTERM, signal.default_int_handler) if main_thread else None,
        sys.unraisablehook,
    )

    def ask_again(swallowed: sys.UnraisableHookArgs) -> None:
        """Python drops what is raised in a finaliser, also a Ctrl-C (seen while packages were imported)."""
        if issubclass(swallowed.exc_type, KeyboardInterrupt):
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            hook(swallowed)

    try:
        sys.unraisablehook = ask_again
        yield
    except KeyboardInterrupt:
        raise Interrupted("luthier", "stopped", fix="the same command begins again") from None
    finally:
        sys.unraisablehook = hook
        if main_thread:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _overview(commands: dict[str, str]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {help_line}" for name, help_line in commands.items()]
    return "\n".join(
        [
            "luthier fine-tunes language models by any method, and says honestly which method was worth it.",
            "",
            "  luthier demo                                  compare methods on the built-in model",
            "  luthier train recipe.yaml data.train=my.jsonl train on your own data",
            "",
            "Commands (luthier COMMAND --help):",
            *lines,
            "",
        ]
    )


def _report(error: LuthierError, *, as_json: bool) -> None:
    rank = os.environ.get("RANK", "0")  # torchrun's; one process alone answers on stdout
    if as_json and rank == "0":
        tree = {"error": {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}}
        sys.stdout.write(json.dumps(tree, ensure_ascii=False) + "\n")
    sys.stderr.write(f"error{f' of rank {rank}' if rank != '0' else ''}: {error}\n")
