# SPDX-License-Identifier: Apache-2.0
"""LLaMA-Factory's `dataset_info.json`: from the name of a data set to where its rows are and how they are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import did_you_mean
from luthier.recipe.text import said

if TYPE_CHECKING:
    from luthier.recipe.dialects._draft import Draft

# LLaMA-Factory's word for a column -> ours; its default name of it, where it has one
ALPACA = {
    "prompt": ("instruction", "instruction"),
    "query": ("input", "input"),
    "response": ("output", "output"),
    "history": ("history", None),
    "system": ("system", None),
    "chosen": ("chosen", "chosen"),
    "rejected": ("rejected", "rejected"),
}
SHAREGPT = {
    "messages": ("conversations", "conversations"),
    "system": ("system", None),
    "chosen": ("chosen", "chosen"),
    "rejected": ("rejected", "rejected"),
}
SHAREGPT_TAGS = {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
OPENAI_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
MEDIA = ("images", "videos", "audios")
_KNOWN = {
    "columns",
    "file_name",
    "folder",
    "formatting",
    "hf_hub_url",
    "ms_hub_url",
    "num_samples",
    "om_hub_url",
    "ranking",
    "script_url",
    "split",
    "subset",
    "tags",
}


def sets(draft: Draft, key: str, stage: str) -> list[dict[str, Any]]:
    """Look up the data sets that `dataset` or `eval_dataset` names.

    Args:
        draft: The recipe.
        key: `dataset` or `eval_dataset`.
        stage: `pt` reads plain text.

    Returns:
        Our sources; what is wrong with one is refused in the draft.
    """
    value = draft.take(key)
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if names is None:
        return []
    folder = Path(str(draft.take("dataset_dir", "data")))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        draft.refuse(key, f"received {said(value)}", "names of dataset_info.json, with commas", "correct it")
        return []
    registry = _registry(draft, folder)
    found = []
    for name in names if registry is not None else ():
        if registry is None or name not in registry:
            near = did_you_mean(name, registry or ())
            draft.refuse(key, f"{name!r} is not in {folder / 'dataset_info.json'}", near, "correct the name")
        elif source := _source(draft, key, name, registry[name], folder, stage):
            found.append(source)
    return found


def _registry(draft: Draft, folder: Path) -> dict[str, Any] | None:
    file = folder / "dataset_info.json"
    try:
        registry = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fix = "give the folder of dataset_info.json, as in dataset_dir=data; or our key, as in data.train=rows.json"
        if not any(refused.where == "dataset_dir" for refused in draft.refused):
            draft.refuse("dataset_dir", f"{file} cannot be read ({type(error).__name__})", "a JSON file", fix)
        return None
    return registry if isinstance(registry, dict) else {}


def _source(
    draft: Draft, key: str, name: str, entry: dict[str, Any], folder: Path, stage: str
) -> dict[str, Any] | None:
    """One entry of the registry as our source."""

    def refuse(what: str, allowed: str, fix: str) -> None:
        draft.refuse(f"{key} {name!r}", what, allowed, fix)

    for unknown in entry.keys() - _KNOWN:
        refuse(f"unknown key {unknown!r} in dataset_info.json", did_you_mean(unknown, _KNOWN), "correct or remove it")
    if "hf_hub_url" in entry:
        source: dict[str, Any] = {"path": entry["hf_hub_url"]}
    elif "file_name" in entry:
        source = {"path": (folder / entry["file_name"]).as_posix()}
    else:
        refuse("neither hf_hub_url nor file_name", "a file, or a data set of the Hugging Face hub", "download it")
        return None
    if media := [word for word in MEDIA if word in entry.get("columns", {})]:
        refuse(f"a column of {media[0]}", "rows of text", "choose another data set")
        return None
    if "folder" in entry:
        refuse(f"received folder {entry['folder']!r}", "whole data sets", "download it and give its folder")
        return None
    source |= {"split": entry["split"]} if "split" in entry and "hf_hub_url" in entry else {}
    source |= {"config": entry["subset"]} if "subset" in entry else {}
    source |= {"max_rows": entry["num_samples"]} if "num_samples" in entry else {}
    return source | _reading(draft, f"{key} {name!r}", entry, stage)


def _reading(draft: Draft, where: str, entry: dict[str, Any], stage: str) -> dict[str, Any]:
    """Format and column names of an entry."""
    columns = dict(entry.get("columns", {}))
    sharegpt = entry.get("formatting", "alpaca") in ("sharegpt", "openai")
    if columns.pop("tools", None) is not None:
        draft.note(f"{where}: the column of tools is not read; rows with turns of tools are refused and counted")
    if stage == "pt":
        text = columns.get("prompt", "instruction")
        return {"format": "text"} if text == "text" else {"format": "text", "columns": {"text": text}}
    words = dict(SHAREGPT if sharegpt else ALPACA)
    form = "sharegpt" if sharegpt else "alpaca"
    tags = entry.get("tags", {})
    if sharegpt and (entry["formatting"] == "openai" or _same(tags, OPENAI_TAGS)):
        form = "messages"
        words["messages"] = ("messages", "messages")
    elif sharegpt and not _same(tags, SHAREGPT_TAGS):
        draft.refuse(where, f"received tags {tags}", "from and value with human and gpt, or OpenAI's", "rename them")
    if entry.get("ranking"):
        form = "preference"
        words |= {"messages": ("prompt", "conversations")} if sharegpt else {}
    elif "kto_tag" in columns:
        form = "unpaired"
        words["kto_tag"] = ("label", "label")
        words |= {"messages": ("messages", "messages")} if sharegpt else {"response": ("completion", "output")}
    for word in columns.keys() - words.keys():
        draft.refuse(where, f"column {word!r} in dataset_info.json", f"known: {', '.join(words)}", "remove it")
    renamed = {own: columns[word] for word, (own, usual) in words.items() if columns.get(word, usual) != usual}
    renamed = {own: name for own, name in renamed.items() if name and own != name}  # "" is no column
    return {"format": form} | ({"columns": renamed} if renamed else {})


def _same(tags: dict[str, Any], wanted: dict[str, str]) -> bool:
    given = SHAREGPT_TAGS | {key: value for key, value in tags.items() if key in wanted}
    return all(given[key] == value for key, value in wanted.items())
