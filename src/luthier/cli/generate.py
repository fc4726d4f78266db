# SPDX-License-Identifier: Apache-2.0
"""Let a model or a run answer prompts.

RUN_OR_MODEL is a run folder, an adapter folder, a transformers folder, a hub name or `embedded`. Prompts come from
--prompt (may be given several times) or from --file: a text file with one prompt a line, or JSONL whose rows are
strings, {"prompt": ...} or {"messages": [...]}. `luthier generate runs/first --prompt "What is the capital of Peru?"`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.core.errors import DataError, UserError
from luthier.core.start import large_imports

if TYPE_CHECKING:
    Prompt = str | list[dict[str, str]]


def main(  # noqa: PLR0913 - each is an option
    model: Annotated[str, typer.Argument(help="A run folder or a model.", metavar="RUN_OR_MODEL")],
    prompt: Annotated[list[str] | None, typer.Option(help="A prompt; may be given several times.")] = None,
    file: Annotated[Path | None, typer.Option(help="A .txt or .jsonl file of prompts.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="A PEFT adapter folder to put on the model.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts generated at a time.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.0, help="0: the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens with this probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    system: Annotated[str | None, typer.Option(help="System prompt of prompts that have none.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template: the text goes on as it stands.")] = False,
    output: Annotated[Path | None, typer.Option(help="Write prompts and replies to this JSONL file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """See the module's text."""
    prompts = _prompts(prompt, file, system, raw)  # a wrong file answers before torch is imported
    with large_imports():
        from luthier.models.generate import generate
        from luthier.run import load

    loaded, tokenizer = load(model)
    if adapter is not None:
        from luthier.export.adapter import load_adapter

        load_adapter(loaded, adapter)
    replies = generate(
        loaded,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        raw=raw,
    )
    rows = [_row(one, reply) for one, reply in zip(prompts, replies, strict=True)]
    if output is not None:
        _write(output, rows)
    if as_json:
        print(json.dumps({"model": model, "replies": rows}, ensure_ascii=False))
    elif output is not None:
        print(f"{len(rows)} replies written to {output}", file=sys.stderr)
    else:
        _show(rows)


def _prompts(given: list[str] | None, file: Path | None, system: str | None, raw: bool) -> list[Prompt]:
    if bool(given) == (file is not None):
        received = "both" if given else "neither"
        raise UserError("--prompt and --file", received, "one of them", 'write --prompt "..." or --file prompts.jsonl')
    if raw and system is not None:
        raise UserError("--system", "a system prompt with --raw", "a chat template to put it into", "leave one out")
    prompts: list[Prompt] = [*given] if given else _read(file)  # type: ignore[arg-type]
    if (
        raw
        and (turns := next((number for number, one in enumerate(prompts) if not isinstance(one, str)), None))
        is not None
    ):
        raise UserError("--raw", f"prompt {turns + 1} is a conversation", "plain strings", "leave --raw out")
    if system is None:
        return prompts
    turned = [[{"role": "user", "content": one}] if isinstance(one, str) else one for one in prompts]
    first = {"role": "system", "content": system}
    return [one if one[0]["role"] == "system" else [first, *one] for one in turned]


def _read(file: Path) -> list[Prompt]:
    """Prompts of a file; faults are told with their line."""
    kinds = {".txt": _line, ".jsonl": _json_line}
    if file.suffix.lower() not in kinds:
        fix = "give the file one of these endings"
        raise DataError(str(file), f"the ending {file.suffix!r}", ".txt (a prompt a line) or .jsonl", fix)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(str(file), "no such file", "a .txt or .jsonl file", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(file), f"cannot be read ({error})", "a text file in UTF-8") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(str(file), "no prompt", "at least one line")
    return [kinds[file.suffix.lower()](f"{file}, line {number}", line.rstrip("\r")) for number, line in lines]


def _line(_: str, line: str) -> Prompt:
    return line


def _json_line(where: str, line: str) -> Prompt:
    allowed = 'a string, {"prompt": "..."} or {"messages": [{"role": ..., "content": ...}]}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(where, f"is not JSON ({error})", allowed) from None
    found = row.get("messages", row.get("prompt")) if isinstance(row, dict) else row
    if isinstance(found, str) and found.strip():
        return found
    if isinstance(found, str) or found == []:
        raise DataError(where, "an empty prompt", allowed)
    if not isinstance(found, list):
        columns = f"columns {', '.join(row)}" if isinstance(row, dict) else type(row).__name__
        raise DataError(where, columns, allowed)
    for number, turn in enumerate(found, 1):
        fine = isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        if not fine:
            raise DataError(where, f"message {number} has no role and content", allowed)
    if found[-1]["role"] == "assistant":
        raise DataError(where, "ends with the assistant's reply", "messages that end before it", "take the reply out")
    return [{"role": turn["role"], "content": turn["content"]} for turn in found]


def _row(prompt: Prompt, reply: str) -> dict[str, Any]:
    return {"prompt" if isinstance(prompt, str) else "messages": prompt, "reply": reply}


def _write(output: Path, rows: list[dict[str, Any]]) -> None:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        output.write_text("".join(lines), encoding="utf-8")
    except OSError as error:
        raise UserError("--output", f"{output} cannot be written ({error})", "a file that can be written") from None


def _show(rows: list[dict[str, Any]]) -> None:
    """One reply stands alone; several follow their prompts."""
    if len(rows) == 1:
        print(rows[0]["reply"])
        return
    for row in rows:
        asked = row.get("prompt") or row["messages"][-1]["content"]
        print(f"> {asked}\n{row['reply']}\n")
