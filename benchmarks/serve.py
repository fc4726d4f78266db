# SPDX-License-Identifier: Apache-2.0
"""Many clients at one server: wrong replies, lost ones, memory, and tokens a second beside one request at a time.

    python benchmarks/serve.py                      # 64 clients for two minutes, three adapters and their base

Clients ask what they ask again and again, each time another name; a third of the requests leaves in the middle of its
stream. Every text is compared with `luthier generate`'s (greedy, float32), those that were cut with its beginning. The
server is a process of its own, the clients are OpenAI's (the extra `dev`), on the same cores. Exit code 0: nothing is
wrong, lost or held, memory has not grown by more than 5 % since the first quarter, and at least three times the tokens
a second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

BASE = "embedded"
ADAPTERS = {"alpha": {"r": 4}, "beta": {"r": 8, "use_rslora": True}, "gamma": {"r": 16, "target_modules": "attention"}}
ASKED = ("What is {} plus {}?", "Tell me about number {} and number {}.", "Is {} more than {}?", "Say {} and {} again.")
TOKENS = 48


def main() -> None:
    """Run the experiment and print what came out."""
    options = _options()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory(prefix="serve-") as scratch:
        folders = make_adapters(Path(scratch))
        prompts = [ASKED[place % len(ASKED)].format(place, 3 * place + 1) for place in range(options.prompts)]
        wanted = offline(folders, prompts)
        told = len({tuple(texts) for texts in wanted.values()})
        print(
            f"{len(wanted)} names, {told} of them say different things; {len(prompts)} prompts, {TOKENS} tokens",
            flush=True,
        )
        with Server(folders) as server:
            faults = experiment(server, options, prompts, wanted)
    print("\n".join(faults) or "no wrong reply, none lost, memory steady")
    sys.exit(bool(faults) or told < len(wanted))


def make_adapters(folder: Path) -> dict[str, Path]:
    """Adapters that change every reply: what a LoRA trains, moved at random."""
    import torch

    from luthier.core import registry
    from luthier.models import load_model, load_tokenizer
    from luthier.recipe import Model

    found = {}
    for seed, (name, config) in enumerate(ADAPTERS.items()):
        torch.manual_seed(seed)
        model = load_model(Model(model_name_or_path=BASE), torch.float32)
        method = registry.get("methods", "lora")
        trainable = method.apply(model, method.Config(lora_alpha=8, **config))
        for parameter in trainable.parameters().values():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        found[name] = folder / name
        found[name].mkdir()
        trainable.save(found[name])
        load_tokenizer(BASE, None, False).save_pretrained(found[name])
    return found


def offline(folders: dict[str, Path], prompts: list[str]) -> dict[str, list[str]]:
    """What `luthier generate` says under each name."""
    from luthier.models.generate import generate
    from luthier.run import load

    names: dict[str, Any] = {**folders, "base": BASE}
    words = {"max_new_tokens": TOKENS, "batch_size": 32}
    return {name: generate(*load(place, "float32"), prompts, **words) for name, place in names.items()}


class Server:
    """`luthier serve` as a process."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders

    def __enter__(self) -> Server:
        command = [sys.executable, "-m", "luthier", "serve", *map(str, self._folders.values())]
        command += ["--dtype", "float32", "--port", "0"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline() if self.process.stdout else ""
        found = re.search(r"(http://\S+)/v1", line)
        assert found, line
        self.url = found[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def metrics(self) -> dict[str, float]:
        """Its own counts."""
        with urllib.request.urlopen(f"{self.url}/metrics") as answer:  # noqa: S310 - the server of this script
            lines = answer.read().decode().splitlines()
        return {row[0]: float(row[1]) for line in lines if not line.startswith("#") for row in [line.rsplit(" ", 1)]}

    def memory(self) -> float:
        """Resident MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found
        return int(found[1]) / 1024


def experiment(
    server: Server, options: argparse.Namespace, prompts: list[str], wanted: dict[str, list[str]]
) -> list[str]:
    """One request at a time, then many; what went wrong."""
    one, _, _ = asyncio.run(load(server, 1, options.seconds / 4, prompts, wanted, cut=0.0))
    many, counts, memory = asyncio.run(load(server, options.clients, options.seconds, prompts, wanted, cut=1 / 3))
    until = time.monotonic() + 10
    while sum(_rows(server, "running|waiting")) and time.monotonic() < until:
        time.sleep(0.1)
    left = sum(_rows(server, "running|waiting"))
    quarter, end = memory[len(memory) // 4], memory[-1]
    print(
        f"one at a time: {one:,.0f} tokens/s; {options.clients} clients: {many:,.0f} tokens/s; {many / one:.1f} times"
    )
    print("requests: " + ", ".join(f"{number} {word}" for word, number in sorted(counts.items())))
    print(f"server's memory: {quarter:.0f} MB after a quarter, {end:.0f} MB at the end, {max(memory):.0f} MB at most")
    cancelled = sum(_rows(server, "replies_total.*cancelled"))
    print(f"replies that the server gave up: {cancelled:.0f}; still held: {left:.0f}")
    faults = [f"{counts[word]} requests {word}" for word in ("wrong", "lost") if counts[word]]
    faults += [f"{left:.0f} replies are still held"] if left else []
    faults += ["memory grew"] if end > 1.05 * quarter else []
    faults += ["less than three times the tokens a second"] if many < 3 * one else []
    return faults


def _rows(server: Server, pattern: str) -> list[float]:
    return [value for name, value in server.metrics().items() if re.match(f"luthier_({pattern})", name)]


async def load(
    server: Server, clients: int, seconds: float, prompts: list[str], wanted: dict[str, list[str]], *, cut: float
) -> tuple[float, Counter[str], list[float]]:
    """Ask for some time: tokens a second (the server's count), what came of the requests, its memory each second."""
    import openai

    counts: Counter[str] = Counter()
    until = time.monotonic() + seconds
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300) as client:

        async def ask_again(place: int) -> None:
            draw = random.Random(place)
            while time.monotonic() < until:
                name, number = draw.choice(list(wanted)), draw.randrange(len(prompts))
                leave = draw.randint(1, 20) if draw.random() < cut else None
                try:
                    text, gone = await ask(client, name, prompts[number], draw.random() < 0.5, leave)
                except openai.OpenAIError as error:
                    print(f"lost: {type(error).__name__}: {error}", file=sys.stderr)
                    counts["lost"] += 1
                    continue
                right = wanted[name][number]
                fine = right.startswith(text) if gone else right == text
                counts["wrong" if not fine else "left" if gone else "right"] += 1

        memory: list[float] = []

        async def watch() -> None:
            while True:
                memory.append(server.memory())
                await asyncio.sleep(1)

        watching = asyncio.create_task(watch())
        before, begun = sum(_rows(server, "reply_tokens_total")), time.monotonic()
        await asyncio.gather(*(ask_again(place) for place in range(clients)))
        written = sum(_rows(server, "reply_tokens_total")) - before
        rate = written / (time.monotonic() - begun)
        watching.cancel()
    return rate, counts, memory


async def ask(client: Any, name: str, prompt: str, streams: bool, leave: int | None) -> tuple[str, bool]:
    """One request: its text, and whether the client has left, which it does after `leave` pieces of its stream."""
    words: dict[str, Any] = {
        "model": name,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "max_tokens": TOKENS,
    }
    if not streams and leave is None:
        found = await client.chat.completions.create(**words)
        return found.choices[0].message.content, False
    text, pieces = "", 0
    async with await client.chat.completions.create(**words, stream=True) as stream:
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            pieces += 1
            if leave is not None and pieces > leave:
                return text, True
    return text, False


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--prompts", type=int, default=40)
    return parser.parse_args()


if __name__ == "__main__":
    main()
