# SPDX-License-Identifier: Apache-2.0
"""A path, a folder, a shipped set or a hub name -> the parts that its rows are read from, one after the other."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import DataError, did_you_mean
from luthier.core.shipped import shipped_set
from luthier.data.readers import array, conll, hub, lines, table
from luthier.data.readers.encoding import check_head, opened

if TYPE_CHECKING:
    from luthier.data.readers.lines import Numbered
    from luthier.recipe.schema import Source

Say = Callable[[str], None]
Reader = Callable[[Path, str], "Iterator[Numbered]"]

READERS: dict[str, Reader] = {
    ".jsonl": lines.json_lines,
    ".ndjson": lines.json_lines,
    ".json": array.json_array,
    ".csv": table.delimited,
    ".tsv": table.delimited,
    ".parquet": table.parquet,
    ".txt": lines.text_lines,
    ".conll": conll.conll,
    ".bio": conll.conll,
    ".iob": conll.conll,
    ".iob2": conll.conll,
}
ALLOWED = f"{', '.join(READERS)} (also .gz of the text ones), a folder of them, a save_to_disk folder, or a hub name"
TABLES = (".csv", ".tsv")
SPLITS = {"train", "test", "validation", "valid", "val", "dev", "eval"}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HEAD = 1 << 22  # a first line longer than 4 MiB is taken for an array without line breaks


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of one file or data set.

    Attributes:
        label: What messages call it; with a row's number it finds the row.
        rows: Starts reading from the first row.
        digest: Hash of the content.
        size: Bytes of the file, 0 where there is no file.
    """

    label: str
    rows: Callable[[], Iterator[Numbered]]
    digest: Callable[[], str]
    size: int = 0


def locate(source: Source, which: str, say: Say) -> tuple[Part, ...]:
    """Find what a source of the recipe names.

    Args:
        source: Path, split and so on.
        which: ``train`` or ``eval``: the default split is ``train`` or ``test``.
        say: Told what was chosen where more than one reading was possible.

    Raises:
        DataError: There is nothing there, or nothing that can be read.
        RecipeError: There is no shipped set of this name.
    """
    by_place = _by_place(source)
    path = shipped_set(source.path) or Path(source.path).expanduser()
    split = source.split or ("train" if which == "train" else "test")
    if path.exists() and source.config is not None:
        where = "a folder" if path.is_dir() else "a file"
        raise DataError(
            source.path, f"config {source.config!r} of {where}", "hub data sets have them", "remove config:"
        )
    if path.is_dir():
        return _folder(path, source, split, say, by_place)
    if path.exists():
        if source.split is not None:
            raise DataError(
                source.path, f"split {source.split!r} of a single file", "a file has no splits", "remove split:"
            )
        return (_file(path, source.path, say, by_place),)
    if _suffix(path) in READERS or not _HUB_NAME.fullmatch(source.path):
        raise DataError(source.path, "no such file or folder", _near(path), "correct the path")
    if by_place:
        raise _no_places(source.path)
    dataset = hub.from_hub(source.path, source.path, split, source.config)
    named = f"{source.path}:{source.config}" if source.config else source.path
    return (_dataset(dataset, f"{named}:{split}"),)


def _by_place(source: Source) -> bool:
    """Whether the recipe names columns by numbers: then the first line of the file is a row like others.

    Raises:
        DataError: It names some so, and some by their names.
    """
    numbers = [isinstance(given, int) for given in source.columns.values()]
    if any(numbers) and not all(numbers):
        allowed = "numbers from 0 for a file without a line of column names, else names"
        raise DataError(f"{source.path}, columns", "names and numbers", allowed, "give one or the other")
    return any(numbers)


def _no_places(where: str) -> DataError:
    return DataError(f"{where}, columns", "numbers", "names: only CSV and TSV files have no column names", "give names")


def _dataset(dataset: object, label: str) -> Part:
    digest = partial(str, getattr(dataset, "_fingerprint", ""))
    return Part(label=label, rows=partial(hub.rows, dataset), digest=digest)


def _folder(path: Path, source: Source, split: str, say: Say, by_place: bool) -> tuple[Part, ...]:
    if by_place and not any(_suffix(file) in TABLES for file in path.rglob("*")):
        raise _no_places(source.path)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return (_dataset(hub.from_disk(path, source.path, split), f"{source.path}:{split}"),)
    files = sorted(file for file in path.rglob("*") if _suffix(file) in READERS and file.is_file())
    if not files:
        raise DataError(source.path, "a folder without a data file", ALLOWED, "give a file or another folder")
    chosen = [file for file in files if _split_of(file, path) == split]
    if not chosen and source.split is None and not SPLITS & {_split_of(file, path) for file in files}:
        chosen = files  # nothing in it is named after a split: all of it
    if not chosen:
        names = ", ".join(str(file.relative_to(path)) for file in files[:12]) + (", ..." if len(files) > 12 else "")
        raise DataError(
            source.path,
            f"no file for split {split!r}",
            f"the folder holds {names}",
            "name one as path:, or give split:",
        )
    if len({_suffix(file) for file in chosen}) > 1:
        names = ", ".join(file.name for file in chosen)
        raise DataError(
            source.path, f"several kinds of files for split {split!r}: {names}", fix="name one of them as path:"
        )
    many = f"{chosen[0].relative_to(path)}" if len(chosen) == 1 else f"{len(chosen)} files"
    say(f"{source.path}: a folder; reading {many} for split {split!r}")
    return tuple(_file(file, f"{source.path.rstrip('/')}/{file.relative_to(path)}", say, by_place) for file in chosen)


def _split_of(file: Path, folder: Path) -> str:
    """``train.jsonl``, ``train-00000-of-00002.parquet`` and ``train/part-0.jsonl`` belong to the split ``train``."""
    inner = file.relative_to(folder).parts
    return inner[0] if len(inner) > 1 and inner[0] != "data" else re.split(r"[.]|-\d", file.name, maxsplit=1)[0]


def _file(path: Path, label: str, say: Say, by_place: bool) -> Part:
    suffix = _suffix(path)
    if suffix not in READERS:
        raise DataError(label, f"the suffix {path.suffix!r}", ALLOWED, "rename or convert the file")
    if path.stat().st_size == 0:
        raise DataError(label, "the file is empty", fix="give a file with rows")
    reader = READERS[suffix]
    if by_place and suffix not in TABLES:
        raise _no_places(label)
    if suffix in TABLES:
        quoted = suffix != ".tsv" or table.is_quoted(path)
        reader = partial(table.delimited, header=not by_place, quoted=quoted)
    if suffix in (".json", ".jsonl", ".ndjson"):
        reader = _json_reader(path, label)
        said = "one JSON array" if reader is array.json_array else "one JSON value a line (JSON Lines)"
        if reader is array.squad:
            say(f"{label}: one JSON object of articles, as in SQuAD; each question in it is a row")
        elif reader is not READERS[suffix]:
            say(f"{label}: in spite of its name it holds {said}; read as that")
    return Part(label=label, rows=partial(reader, path, label), digest=partial(digest, path), size=path.stat().st_size)


def _json_reader(path: Path, label: str) -> Reader:
    """Tell an array from JSON Lines by the content: the suffix is wrong often enough (BELLE's .json are lines)."""
    import json

    with opened(path) as file:
        head = file.read(4096)
        start = check_head(label, head)
        if array.is_squad(head[start:]):
            return array.squad
        file.seek(start)
        first = b""
        while not first.strip():
            first = file.readline(_HEAD)
            if not first:
                raise DataError(label, "nothing but white space", fix="give a file with rows")
        second = file.readline(64)
        while second.isspace():
            second = file.readline(64)
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        value = None
    if value is None:  # cut off at the line's end: an indented array, or a broken first line
        if first.lstrip().startswith(b"["):
            return array.json_array
        if first.strip() == b"{" or (first.lstrip().startswith(b"{") and _suffix(path) == ".json" and not second):
            raise _one_object(label, "")
        return lines.json_lines
    if isinstance(value, list) and not second and not _is_messages(value):
        return array.json_array
    if isinstance(value, dict) and not second and len(value) <= 4 and any(_rows_in(inner) for inner in value.values()):
        raise _one_object(label, next(key for key, inner in value.items() if _rows_in(inner)))
    return lines.json_lines


def _is_messages(value: list[object]) -> bool:
    return bool(value) and all(isinstance(item, dict) and "role" in item for item in value)


def _rows_in(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 1
        and isinstance(value[0], dict)
        and "role" not in value[0]
        and "from" not in value[0]
    )


def _one_object(label: str, key: str) -> DataError:
    fix = f"take the rows out of it: jq -c '.{key or 'KEY'}[]' FILE > rows.jsonl"
    return DataError(label, "holds one JSON object", "an array of rows, or one JSON object a line", fix)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else "".join(suffixes[-1:])


def _near(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"the folder {str(folder)!r} is not there either"
    names = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))
    return did_you_mean(path.name, names[:20]) if names else f"the folder {str(folder)!r} is empty"


@cache
def code() -> str:
    """Hash this folder's source: a change to it makes every stored token doubtful, with no version to forget."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def digest(path: Path) -> str:
    """Hash a file's content (1 GB a second; tokenising does 2 MB)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
