# SPDX-License-Identifier: Apache-2.0
"""A folder -> a repository of the Hugging Face hub; what would keep it from getting there is found before work begins.

The token is the one that `hf auth login` keeps, or HF_TOKEN: no key and no option takes one, and no message has it.
Proofs stay here: they name folders of this machine.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import RunFailed, UserError
from luthier.export.card import write_card
from luthier.export.origin import find_result
from luthier.export.result_proof import prove_result
from luthier.models.failures import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from luthier.core.trainable import Trainable
    from luthier.export.origin import Origin
    from luthier.recipe import Recipe

TOO_OFTEN = 429  # the hub answers this question a few times a minute; it has nothing against the token
LEFT_OUT = ("*_proof.json", "luthier.json")


def check_push(repo: str, where: str) -> None:
    """Refuse what cannot be uploaded.

    Args:
        repo: `NAME` or `OWNER/NAME`.
        where: The key or option that asks for it.

    Raises:
        UserError: The name is none, there is no token, or one that the hub does not let write, or no hub is reached.
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
    _check_token(where)


def _check_token(where: str) -> None:
    """Ask the hub whose token it is: an upload that cannot be is told before a training, not after it."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    try:
        about: dict[str, Any] = HfApi(endpoint=constants.ENDPOINT).whoami()
    except HfHubHTTPError as error:
        if error.response.status_code == TOO_OFTEN:
            return
        fix = "`hf auth login --force`, or another HF_TOKEN, or do not upload"
        raise UserError(where, f"the hub refuses the token ({_said(error)})", "one that may write", fix) from None
    except (HTTPError, OSError, ValueError) as error:
        fix = "look at the network and HF_ENDPOINT, or do not upload"
        received = f"the hub at {constants.ENDPOINT} was not reached ({_said(error)})"
        raise UserError(where, received, "a network to upload over", fix) from None
    token = (about.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        fix = "make one that may write, on the hub's page of tokens"
        raise UserError(where, f"a token of {about.get('name')} that may only read", "one that may write", fix)


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
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError  # of the library that it reaches the network by

    api = HfApi(endpoint=constants.ENDPOINT)
    try:
        name = str(api.create_repo(repo, private=private, exist_ok=True).repo_id)
        api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=[*LEFT_OUT])
    except (HTTPError, OSError, ValueError, RuntimeError) as error:  # the last: of the part that sends large files
        without = [word for pattern in LEFT_OUT for word in ("--exclude", pattern)]
        again = shlex.join(["hf", "upload", repo, str(folder), *without])
        fix = f"the result is whole: `{again}` tries again"
        allowed = "a token that may write, and a network"
        raise RunFailed(where, f"{repo} was not uploaded ({_said(error)})", allowed, fix) from None
    say(f"uploaded to {name}")
    return name


def _said(error: Exception) -> str:
    """The first line of what went wrong; should somebody have put the token there, without it."""
    from huggingface_hub import get_token

    told = [str(one).strip().split("\n")[0] for one in (error, error.__cause__) if one is not None]
    text = ": ".join(filter(None, told)).replace(get_token() or "\0", "***")
    return text[:300] or type(error).__name__


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


def push_run(recipe: Recipe, folder: Path, trainable: Trainable, say: Callable[[str], None]) -> None:
    """Prove what a run has written and upload it, with a card, where its recipe asks for it.

    Args:
        recipe: Of the run.
        folder: The run's.
        trainable: What it has trained.
        say: Receives one line at a time.

    Raises:
        RunFailed: What was written is not what was trained, or see :func:`push`. The result is whole.
    """
    if not recipe.train.push_to_hub:
        return
    where, origin = "train.push_to_hub", find_result(folder)
    proof = prove_result(origin, trainable, where, say)
    say(f"read again from disk: {proof.told()}")
    own = not origin.whole and "peft_type" not in origin.config
    form, library = ("a whole model", "transformers") if origin.whole else ("an adapter", "luthier" if own else "peft")
    write_card(origin.adapter, origin, form, proof, library)
    _tell_base(origin, say)
    push(origin.adapter, repo_of(recipe), where, private=recipe.train.hub_private_repo, say=say)


def _tell_base(origin: Origin, say: Callable[[str], None]) -> None:
    """An adapter names its base; where that is a place of this machine, nobody else finds it by it."""
    base = str(origin.config.get("base_model_name_or_path") or "")
    if base in EMBEDDED or Path(base).expanduser().is_dir():
        say(f"the adapter names its base as {base}, which others cannot load from the hub")
