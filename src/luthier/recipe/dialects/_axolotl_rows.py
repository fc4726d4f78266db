# SPDX-License-Identifier: Apache-2.0
"""Axolotl's `datasets`: a path, a `type` that says how rows are read, and fields that name columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.core.errors import did_you_mean
from luthier.recipe.text import said

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

# type -> our format; null: told by the columns
TYPES: dict[str, str | None] = {
    "alpaca": "alpaca",
    "alpaca_chat": "alpaca",
    "chat_template": "messages",
    "completion": "text",
    "pretrain": "text",
    "sharegpt": "sharegpt",
}
PAIRS = ("chat_template", "chatml", "llama3", "user_defined", "bradley_terry", "unpaired", "orpo", "argilla")
_IDLE = {"ds_type", "roles", "trust_remote_code", "train_on_eot"}
_READ = {
    "chat_template",
    "data_files",
    "train_on_eos",
    "field",
    "field_chosen",
    "field_messages",
    "field_rejected",
    "field_system",
    "message_field_content",
    "message_field_role",
    "message_property_mappings",
    "name",
    "path",
    "roles_to_train",
    "split",
    "type",
}


def sources(draft: Draft, key: str, *, judged: bool) -> list[dict[str, Any]]:
    """Read `datasets` or `test_datasets`.

    Args:
        draft: The recipe.
        key: Which of them.
        judged: Whether the objective wants judged answers.

    Returns:
        Our sources; what is wrong with one is refused in the draft.
    """
    entries = draft.take(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "path" in entry for entry in entries):
        draft.refuse(key, f"received {said(entries)}", "a list of {path, type, …}", "correct it")
        return []
    found = []
    for number, entry in enumerate(entries):
        where = f"{key}.{number}"
        for name in entry:
            if name not in _IDLE | _READ:
                draft.refuse(
                    f"{where}.{name}", "unknown key", did_you_mean(name, _READ | _IDLE), "correct or remove it"
                )
            if name in _IDLE:
                draft.idle.append(f"{where}.{name}")
        if entry.get("chat_template") not in (None, "tokenizer_default"):
            fix = "write chat_template beside `datasets`, once for all rows"
            draft.refuse(f"{where}.chat_template", f"received {said(entry['chat_template'])}", "one for all", fix)
        files = entry.get("data_files")
        if files and not (isinstance(files, str) or len(files) == 1):
            draft.refuse(f"{where}.data_files", f"received {said(files)}", "one file", "make an entry of each file")
        path = (files if isinstance(files, str) else files[0]) if files else entry["path"]
        source: dict[str, Any] = {"path": path}
        if (
            isinstance(entry.get("split"), str)
            and not files
            and not str(path).endswith((".json", ".jsonl", ".parquet"))
        ):
            source["split"] = entry["split"]
        if entry.get("name"):
            source["config"] = entry["name"]
        found.append(source | (_judged(draft, where, entry) if judged else _spoken(draft, where, entry)))
    return found


def _spoken(draft: Draft, where: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Format and columns of rows to be learned as they are."""
    kind = entry.get("type", "alpaca")
    if not isinstance(kind, str) or kind.partition(".")[0] not in TYPES:
        fix = "write one of these, or our key, as in data.train=[{path: rows.jsonl, columns: {instruction: q}}]"
        draft.refuse(f"{where}.type", f"received {said(kind)}", f"known: {', '.join(TYPES)}", fix)
        return {}
    if list(entry.get("roles_to_train") or ["assistant"]) not in (["assistant"], ["gpt"], ["assistant", "gpt"]):
        allowed, fix = "[assistant]", "write train_on_inputs: true to train on every token"
        draft.refuse(f"{where}.roles_to_train", f"received {said(entry['roles_to_train'])}", allowed, fix)
    if entry.get("train_on_eos", "turn") not in ("turn", "all"):
        draft.refuse(f"{where}.train_on_eos", f"received {said(entry['train_on_eos'])}", "turn", "remove it")
    form = TYPES[kind.partition(".")[0]]
    columns: dict[str, str] = {}
    if form == "text":
        columns = {"text": entry.get("field", "text")}
    elif form in ("messages", "sharegpt"):
        mapping = entry.get("message_property_mappings") or {}
        role = entry.get("message_field_role") or mapping.get("role")
        form = "sharegpt" if role == "from" or form == "sharegpt" else "messages"
        own = {"sharegpt": "conversations", "messages": "messages"}[form]
        columns = {own: entry.get("field_messages", "conversations" if kind == "sharegpt" else "messages")}
        if entry.get("field_system"):
            columns["system"] = entry["field_system"]
    columns = {own: name for own, name in columns.items() if own != name}
    return {"format": form} | ({"columns": columns} if columns else {})


def _judged(draft: Draft, where: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Columns of judged rows, whose format their columns tell."""
    kind = entry.get("type")
    if kind is not None and not (isinstance(kind, str) and kind.partition(".")[0] in PAIRS):
        draft.refuse(f"{where}.type", f"received {said(kind)}", f"known: {', '.join(PAIRS)}", "write chat_template")
    named = {"chosen": "field_chosen", "rejected": "field_rejected", "prompt": "field_messages"}
    columns = {own: entry[name] for own, name in named.items() if entry.get(name, own) != own}
    return {"columns": columns} if columns else {}
