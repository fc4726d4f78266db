# SPDX-License-Identifier: Apache-2.0
"""A server in this process over a tiny model with two adapters, and the real `openai` client of it."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from luthier.core import registry
from luthier.models import load_model, load_tokenizer
from luthier.recipe import Model

# Random models repeat one token for ever at small updates; these move every reply.
ADAPTERS: dict[str, dict[str, Any]] = {
    "first": {"r": 4, "lora_alpha": 8},
    "second": {"r": 8, "lora_alpha": 16, "use_rslora": True},
}


def save_adapters(base: Path, folder: Path) -> dict[str, Path]:
    """PEFT folders of adapters that change what the model says."""
    found = {}
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        torch.manual_seed(seed)
        model = load_model(Model(model_name_or_path=str(base)), torch.float32)
        method = registry.get("methods", "lora")
        trainable = method.apply(model, method.Config(**config))
        for parameter in trainable.parameters().values():
            parameter.data.add_(0.2 * torch.randn_like(parameter))
        found[name] = folder / name
        found[name].mkdir(parents=True)
        trainable.save(found[name])
        load_tokenizer(str(base), None, False).save_pretrained(found[name])
    return found


class Running:
    """A server that listens, and clients of it."""

    def __init__(self, shelf: Any, port: int, key: str | None) -> None:
        self.shelf, self.port, self.key = shelf, port, key
        self.url = f"http://127.0.0.1:{port}"

    def client(self, **words: Any) -> Any:
        """The real client; it does not try again by itself."""
        import openai

        settings = {"base_url": f"{self.url}/v1", "api_key": self.key or "none", "max_retries": 0, "timeout": 60.0}
        return openai.OpenAI(**(settings | words))

    def idle(self, within: float = 20.0) -> bool:
        """Whether all slots are free soon."""
        until = time.monotonic() + within
        while time.monotonic() < until:
            if all(engine.load() == (0, 0) for engine in self.shelf.engines.values()):
                return True
            time.sleep(0.02)
        return False


@contextmanager
def running(shelf: Any, **limits: Any):
    """Inside, it listens."""
    import uvicorn

    from luthier.serve.app import Limits, make_app
    from luthier.serve.listen import _bound

    settings = Limits(**limits)
    listening = _bound("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(make_app(shelf, settings), log_config=None, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 30
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        assert server.started
        yield Running(shelf, listening.getsockname()[1], settings.key)
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
