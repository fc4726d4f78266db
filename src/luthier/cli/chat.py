# SPDX-License-Identifier: Apache-2.0
"""Talk with a run in the terminal, or with two side by side.

RUN is a run folder, an adapter folder, a model or `embedded`; two runs are told the same, and each goes on with its own
replies. /reset begins again, /system TEXT sets the system prompt, /quit or Ctrl-D ends; Ctrl-C cuts a reply short.
What is piped in is one turn a line. `luthier chat runs/before runs/after`
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.core.errors import UserError
from luthier.core.start import large_imports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from luthier.serve.chat import Conversation, Reply


def main(
    runs: Annotated[list[str], typer.Argument(help="One run, or two.", metavar="[NAME=]RUN [RUN]")],
    system: Annotated[str | None, typer.Option(help="System prompt.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens with this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16; auto: what each was trained in.")] = "auto",
) -> None:
    """See the module's text."""
    if len(runs) > 2:
        raise UserError("luthier chat", f"{len(runs)} runs", "one or two", "`luthier serve` takes any number")
    if dtype not in ("auto", "float32", "bfloat16"):
        raise UserError("--dtype", f"received {dtype!r}", "auto, float32 or bfloat16", "choose one of them")
    if not 0 < top_p <= 1:
        raise UserError("--top-p", f"received {top_p}", "above 0 and at most 1", "correct it")
    with large_imports():
        from luthier.serve.chat import HELP, Conversation, Manner, obey
        from luthier.serve.shelf import Room, Shelf

    manner = Manner(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed)
    room = Room(places=len(runs), queue=len(runs))
    shelf = Shelf(runs, room, None if dtype == "auto" else dtype, say=lambda line: print(line, file=sys.stderr))
    shelf.start()
    talks = [Conversation(one, manner, system) for one in list(shelf.served.values())[: len(runs)]]
    try:
        if sys.stdin.isatty():
            print(HELP, file=sys.stderr)
        for line in _lines():
            if line.startswith("/"):
                if (told := obey(line, talks)) is None:
                    break
                print(told, file=sys.stderr)
            else:
                _turn(talks, line)
    finally:
        shelf.close()


def _lines() -> Iterator[str]:
    """What is said, without empty lines."""
    typed = sys.stdin.isatty()
    if typed:
        import contextlib
        import signal

        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it would be a Ctrl-C, which ends nothing here

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - input() edits lines and remembers them when it is there
    while True:
        try:
            line = input("> ") if typed else sys.stdin.readline()
        except EOFError:
            return
        except KeyboardInterrupt:  # at the prompt it ends nothing; a pipe ends by it
            if not typed:
                raise
            print("\n/quit or Ctrl-D ends", file=sys.stderr)
            continue
        if not typed and not line:
            return
        if line.strip():
            yield line.strip()


def _turn(talks: list[Conversation], said: str) -> None:
    """One line, and the replies to it; what goes wrong is told, and the chat goes on."""
    try:
        replies = [talk.ask(said) for talk in talks]
        if len(replies) == 1 or not sys.stdout.isatty():
            for talk, reply in zip(talks, replies, strict=True):
                _write(talk.served.name if len(talks) > 1 else None, reply)
        else:
            _beside(talks, replies)
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        print(" (cut short)")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)


def _write(name: str | None, reply: Reply) -> None:
    if name is not None:
        sys.stdout.write(f"{name}: ")
    for piece in reply.pieces():
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write(" ...\n" if reply.cut else "\n")
    sys.stdout.flush()


def _beside(talks: list[Conversation], replies: list[Reply]) -> None:
    """Columns that fill while both are written."""
    import threading

    from rich.console import Group
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

    failed: list[BaseException] = []

    def read(reply: Reply) -> None:
        try:
            for _ in reply.pieces():
                pass
        except UserError as error:
            failed.append(error)

    def table() -> Any:
        shown = Table(show_edge=False, expand=True, box=None, padding=(0, 2, 0, 0))
        for talk in talks:
            shown.add_column(Text(talk.served.name), ratio=1, overflow="fold")
        shown.add_row(*(Text(reply.text + (" ..." if reply.cut else "")) for reply in replies))
        return Group(shown)

    readers = [threading.Thread(target=read, args=(reply,), daemon=True) for reply in replies]
    for reader in readers:
        reader.start()
    with Live(table(), refresh_per_second=10, transient=False) as live:
        try:
            while any(reader.is_alive() for reader in readers):
                for reader in readers:
                    reader.join(0.05)
                live.update(table())
        except KeyboardInterrupt:
            for reply in replies:
                reply.cut_short()
            raise
        live.update(table())
    if failed:
        raise failed[0]
