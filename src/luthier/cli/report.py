# SPDX-License-Identifier: Apache-2.0
"""Write report.html, one page without a network, for a study's folder or a run's.

DIR is the output_dir of `luthier compare`, `luthier demo` or `luthier train`, finished or not; of a folder that holds
several studies each gets a page. `luthier watch DIR` shows the same page while runs go on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def main(
    folder: Annotated[Path, typer.Argument(help="A study's folder or a run's.", metavar="DIR")],
    lang: Annotated[str | None, typer.Option(help="en or zh; default: what the reader's browser asks for.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print where it stands as JSON on stdout.")] = False,
) -> None:
    """See the module's text."""
    from luthier.core.errors import UserError, did_you_mean
    from luthier.web.markup import LANGUAGES
    from luthier.web.page import write_page

    if lang is not None and lang not in LANGUAGES:
        raise UserError("--lang", f"received {lang!r}", did_you_mean(lang, LANGUAGES))
    path = write_page(folder, lang)
    print(json.dumps({"report": str(path)}, ensure_ascii=False) if as_json else f"Written: {path}")
