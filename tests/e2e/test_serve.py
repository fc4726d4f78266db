# SPDX-License-Identifier: Apache-2.0
"""`luthier serve` as a process: Ctrl-C finishes what is being written, takes nothing new, and exits with 0."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

openai = pytest.importorskip("openai")
pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.e2e
MAIN = "from luthier.cli import main; main()"


def start(*words, **variables):
    command = [sys.executable, "-c", MAIN, "serve", *map(str, words), "--port", "0"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | variables
    )


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_the_end_waits_for_what_is_being_written(tiny_llama, stop):
    process = start(f"model={tiny_llama}", "--dtype", "float32", LUTHIER_API_KEY="secret")
    try:
        line = process.stdout.readline()
        found = re.search(r"Serving model at (http://127\.0\.0\.1:\d+/v1)", line)
        assert found, line + process.stderr.read()
        client = openai.OpenAI(base_url=found[1], api_key="secret", max_retries=0, timeout=60)
        words = {"model": "model", "prompt": "one two", "temperature": 0, "max_tokens": 300}
        whole = client.completions.create(**words).choices[0].text
        stream = client.completions.create(**words, stream=True)
        text = next(stream).choices[0].text
        process.send_signal(stop)
        for chunk in stream:
            text += chunk.choices[0].text
        assert text == whole
        assert process.wait(60) == 0
        with pytest.raises(openai.APIConnectionError):
            client.completions.create(**words)
    finally:
        process.kill()
        process.communicate()
