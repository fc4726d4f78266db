# SPDX-License-Identifier: Apache-2.0
"""Let a trained model label texts, tag words, answer from a context, give vectors, or write targets from sources.

RUN_OR_MODEL is a run folder, an adapter folder or a transformers folder. TEXTS are texts or questions, or one file of
them: .jsonl, .csv (columns text, pair, tokens, question, context ...) or .txt with a text a line. Rows of a file that
cannot be read are left out, counted and named on stderr.
`luthier predict runs/sst "A stirring film."`, `luthier predict runs/qa "Who wrote it?" --context "Ada wrote it."`
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from luthier.core.errors import DataError
from luthier.core.start import large_imports

if TYPE_CHECKING:
    from luthier.evaluate.judged import Prediction
    from luthier.evaluate.samples import Samples

FILES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".parquet", ".conll")
SHOWN = 5  # probabilities of one text on a terminal, and names of rows with one fault


def main(
    model: Annotated[str, typer.Argument(help="A run folder or a model.", metavar="RUN_OR_MODEL")],
    texts: Annotated[list[str], typer.Argument(help="Texts, questions, or one file of them.", metavar="TEXTS")],
    context: Annotated[str | None, typer.Option(help="What answers the questions; or the second text of each.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write predictions (.jsonl) or vectors (.npy) here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
) -> None:
    """See the module's text."""
    file = _file(texts)
    if output is not None and output.suffix not in (".jsonl", ".npy"):
        raise DataError("--output", f"the ending {output.suffix!r}", ".jsonl, or .npy for vectors", "name it so")
    with large_imports():
        from luthier.evaluate.samples import bare_samples, typed_samples
        from luthier.evaluate.trained import open_reader, predict
        from luthier.run import load

    reader = open_reader(*load(model), Path(model))
    samples = typed_samples(texts, context, reader.kind) if file is None else bare_samples(str(file), reader.kind)
    found = predict(reader, samples.every)
    if file is not None:  # refused rows leave gaps
        found = [{"row": sample.name, **row} for row, sample in zip(found, samples.every, strict=True)]
    refused = {"refused": dict(samples.refused)} if samples.refused else {}
    for reason, count in samples.refused.items():
        names = [name for name, what in samples.faults if what == reason]
        more = ", ..." if count > SHOWN else ""
        print(
            f"refused {count} row{'s' if count > 1 else ''}: {reason} ({', '.join(names[:SHOWN])}{more})",
            file=sys.stderr,
        )
    if output is not None:
        _write(output, found)
    if as_json:
        print(json.dumps({"model": model, "predictions": found, **refused}, ensure_ascii=False))
    elif output is not None:
        print(f"{len(found)} predictions written to {output}", file=sys.stderr)
    else:
        _show(found, samples)


def _file(texts: list[str]) -> Path | None:
    """The file that is meant, where it is one.

    Raises:
        DataError: It looks like one and is not there.
    """
    path = Path(texts[0]).expanduser()
    if len(texts) > 1 or path.suffix.lower() not in FILES or " " in path.suffix:
        return None
    if not path.is_file():
        raise DataError(str(path), "no such file", "a file of texts", "check the path")
    return path


def _write(path: Path, found: list[Prediction]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
        return
    if "vectors" not in found[0]:
        raise DataError("--output", f"{path.name} for a model without vectors", "a .jsonl file", "name one")
    import numpy as np

    np.save(path, np.concatenate([np.array(row["vectors"], np.float32) for row in found]))


def _show(found: list[Prediction], samples: Samples) -> None:
    for row, sample in zip(found, samples.every, strict=True):
        if "tags" in row:
            print(" ".join(f"{word}[{tag}]" if tag != "O" else word for word, tag in _words(row)))
            for entity in row.get("entities", []):
                print(f"  {entity['type']:<12} {entity['text']}")
        elif "answer" in row:
            print(f"{row['question']}\n  {row['answer'] or '(no answer)'}  {row['score']:.3f}")
        elif "target" in row:
            print(row["target"])
        elif "vectors" in row:
            similar = " ".join(f"{one:.4f}" for one in row["similarities"])
            print(
                f"{len(row['vectors'][0])} numbers a text{': similarity ' + similar if similar else ''}  {sample.name}"
            )
        else:
            print(f"{_label(row)}  {row['text']}{' | ' + row['pair'] if 'pair' in row else ''}")


def _words(row: Prediction) -> list[tuple[str, str]]:
    return list(zip(row["words"], row["tags"], strict=True))


def _label(row: Prediction) -> str:
    if "value" in row:
        value: Any = row["value"]
        return f"{value:.4f}" if isinstance(value, float) else " ".join(f"{k}={v:.4f}" for k, v in value.items())
    likeliest = sorted(row["probabilities"].items(), key=lambda one: -one[1])[:SHOWN]
    chosen = row["label"] if "label" in row else ", ".join(row["labels"]) or "(none)"
    return f"{chosen}  ({' '.join(f'{name} {share:.3f}' for name, share in likeliest)})"
