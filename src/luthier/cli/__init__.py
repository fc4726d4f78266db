# SPDX-License-Identifier: Apache-2.0
"""The command line. Each command is one file here, imported when it is asked for; `--help` reads docstrings only.

Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted (can be resumed).
"""

from __future__ import annotations

import functools
import json
import sys
from typing import TYPE_CHECKING, Any

from luthier.core import registry
from luthier.core.errors import Interrupted, LuthierError, UserError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(words)
    except LuthierError as error:
        _report(error, as_json="--json" in words)
        sys.exit(error.exit_code)


def _dispatch(words: list[str]) -> None:
    commands = registry.entries("cli")
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview(commands))
        return
    if words[0] in ("-V", "--version"):
        from luthier import __version__

        sys.stdout.write(f"luthier {__version__}\n")
        return
    if words[0] not in commands:
        raise UserError("luthier", f"unknown command {words[0]!r}", did_you_mean(words[0], commands))
    import typer

    module = registry.get("cli", words[0])
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=module.__doc__)(_stoppable(module.main))
    app(words[1:], prog_name=f"luthier {words[0]}")


def _stoppable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a Ctrl-C outside the training loop into exit code 130."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            raise Interrupted("luthier", "stopped", fix="a run that had begun goes on with --resume") from None

    return wrapped


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
    if as_json:
        tree = {"error": {"kind": type(error).__name__, "message": str(error), "exit_code": error.exit_code}}
        sys.stdout.write(json.dumps(tree, ensure_ascii=False) + "\n")
    sys.stderr.write(f"error: {error}\n")
