# SPDX-License-Identifier: Apache-2.0
"""A folder -> a repository of the Hugging Face hub; what would keep it from getting there is found before work begins.

The token is the one that `hf auth login` keeps, or HF_TOKEN. Proofs stay here: they name folders of this machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import RunFailed, UserError
from luthier.export.card import write_card
from luthier.export.origin import find_result

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.recipe import Recipe

LEFT_OUT = ["*_proof.json", "luthier.json"]


def check_push(repo: str, where: str) -> None:
    """Refuse what cannot be uploaded.

    Args:
        repo: `NAME` or `OWNER/NAME`.
        where: The key or option that asks for it.

    Raises:
        UserError: The name is none, there is no token, or this process is told to stay offline.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise UserError(where, f"the repository {repo!r} ({error})", "NAME or OWNER/NAME", "correct it") from None
    if constants.is_offline_mode():
        fix = "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE, or do not upload"
        raise UserError(where, "HF_HUB_OFFLINE is set", "a network to upload over", fix)
    if get_token() is None:
        fix = "`hf auth login`, or export HF_TOKEN=..., or do not upload"
        raise UserError(where, "no token of the Hugging Face hub", "one that may write", fix)


def push(folder: Path, repo: str, where: str, *, private: bool = False, say: Callable[[str], None]) -> str:
    """Upload a folder, into a repository that is made where it is not there.

    Args:
        folder: All of it but the proofs.
        repo: `NAME` or `OWNER/NAME`.
        where: The key or option that asks for it.
        private: Of a repository that is made.
        say: Receives one line.

    Returns:
        The repository, with its owner.

    Raises:
        RunFailed: The hub said no, or could not be reached; the folder is as it was.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # of the library that it reaches the network by

    api = HfApi()
    try:
        name = str(api.create_repo(repo, private=private, exist_ok=True).repo_id)
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=LEFT_OUT)
    except (HTTPError, OSError, ValueError) as error:
        first = str(error).strip().split("\n")[0][:300] or type(error).__name__
        fix = f"the result is whole: `hf upload {repo} {folder}` tries again"
        raise RunFailed(
            where, f"{repo} was not uploaded ({first})", "a token that may write, and a network", fix
        ) from error
    say(f"uploaded to {name}")
    return name


def repo_of(recipe: Recipe) -> str:
    """The repository that a recipe names, or the name of its folder."""
    return recipe.train.hub_model_id or Path(recipe.output_dir).resolve().name


def check_run(recipe: Recipe) -> None:
    """Refuse a run whose result could not be uploaded.

    Raises:
        UserError: See :func:`check_push`.
    """
    if recipe.train.push_to_hub:
        check_push(repo_of(recipe), "train.push_to_hub")


def push_run(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> None:
    """Upload what a run has written, with a card, where its recipe asks for it.

    Raises:
        RunFailed: See :func:`push`.
    """
    if not recipe.train.push_to_hub:
        return
    origin = find_result(folder)
    write_card(origin.adapter, origin, "a whole model" if origin.whole else "an adapter", None)
    private = recipe.train.hub_private_repo
    push(origin.adapter, repo_of(recipe), "train.push_to_hub", private=private, say=say)
