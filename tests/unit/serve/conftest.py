# SPDX-License-Identifier: Apache-2.0
"""One server for the whole session, over a tiny model with two adapters, float32."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def adapters(tiny_llama, tmp_path_factory):
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    from tests.serving import save_adapters

    return save_adapters(tiny_llama, tmp_path_factory.mktemp("adapters"))


@pytest.fixture(scope="session")
def server(adapters):
    pytest.importorskip("openai")
    from tests.serving import running

    from luthier.serve.shelf import Room, Shelf

    shelf = Shelf([str(path) for path in adapters.values()], Room(places=8, queue=16), "float32")
    with running(shelf) as found:
        yield found


@pytest.fixture(scope="session")
def offline(adapters, tiny_llama):
    """What `luthier generate` says under a name."""
    from luthier.models.generate import generate
    from luthier.run import load

    loaded = {name: load(path, "float32") for name, path in {**adapters, "base": tiny_llama}.items()}

    def ask(name, prompts, **words):
        return generate(*loaded[name], prompts, **words)

    ask.models = loaded
    return ask
