# SPDX-License-Identifier: Apache-2.0
"""`luthier generate`: where prompts come from, where replies go, and faults told with their line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from luthier.cli import main
from luthier.core.errors import DataError, UserError
from luthier.methods import lora
from luthier.models import load_model, load_tokenizer
from luthier.models.generate import generate
from luthier.recipe import Model


def run(*words: str | Path) -> int | str:
    try:
        main(["generate", *map(str, words)])
    except SystemExit as stopped:
        return stopped.code or 0
    return 0


def wanted(folder: Path, prompts: list, **words: object) -> list[str]:
    model = load_model(Model(model_name_or_path=str(folder)), torch.float32)
    return generate(model, load_tokenizer(str(folder)), prompts, max_new_tokens=4, **words)


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers on every machine: some would pick bfloat16."""
    monkeypatch.setattr("luthier.run.pick_dtype", lambda *_: torch.float32)


def test_one_prompt(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny_llama, "--prompt", "Hello", "--max-new-tokens", "4") == 0
    assert capsys.readouterr().out.rstrip("\n") == wanted(tiny_llama, ["Hello"])[0]


def test_several_prompts_as_json(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny_llama, "--prompt", "Hello", "--prompt", "2", "--raw", "--max-new-tokens", "4", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    replies = wanted(tiny_llama, ["Hello", "2"], raw=True)
    assert told["replies"] == [{"prompt": p, "reply": r} for p, r in zip(["Hello", "2"], replies, strict=True)]


def test_a_file_to_a_file(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    rows = ["Hello", {"prompt": "早上好", "other": 1}, {"messages": turns}]
    source, target = tmp_path / "prompts.jsonl", tmp_path / "out" / "replies.jsonl"
    source.write_text("".join(json.dumps(row) + "\n\n" for row in rows), encoding="utf-8")
    assert run(tiny_llama, "--file", source, "--output", target, "--max-new-tokens", "4") == 0
    told = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    assert [row["reply"] for row in told] == wanted(tiny_llama, ["Hello", "早上好", turns])
    assert told[2]["messages"] == turns
    out = capsys.readouterr()
    assert out.out == ""
    assert f"3 replies written to {target}" in out.err


def test_a_text_file_and_a_system_prompt(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffHello\r\n\r\nBye\r\n".encode())
    assert run(tiny_llama, "--file", file, "--system", "Be short.", "--max-new-tokens", "4", "--json") == 0
    told = json.loads(capsys.readouterr().out)["replies"]
    system = {"role": "system", "content": "Be short."}
    asked = [[system, {"role": "user", "content": word}] for word in ("Hello", "Bye")]
    assert [row["messages"] for row in told] == asked
    assert [row["reply"] for row in told] == wanted(tiny_llama, asked)


def test_an_adapter(tiny_llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32)
    trainable = lora.apply(model, lora.Config(r=4))
    with torch.no_grad():
        for parameter in trainable.parameters().values():
            parameter.copy_(0.3 * torch.randn_like(parameter))
    trainable.save(tmp_path)
    reply = generate(model, load_tokenizer(str(tiny_llama)), ["Hello"], max_new_tokens=4)[0]
    assert reply != wanted(tiny_llama, ["Hello"])[0]
    assert run(tiny_llama, "--adapter", tmp_path, "--prompt", "Hello", "--max-new-tokens", "4") == 0
    assert capsys.readouterr().out.rstrip("\n") == reply


def test_several_replies_follow_their_prompts(tiny_llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tiny_llama, "--prompt", "Hello", "--prompt", "Bye", "--max-new-tokens", "4") == 0
    first, second = wanted(tiny_llama, ["Hello", "Bye"])
    assert capsys.readouterr().out == f"> Hello\n{first}\n\n> Bye\n{second}\n\n"


# Text of the file -> what is said about it, with the line.
FAULTS = {
    '"fine"\nnot json': "line 2: is not JSON",
    '"fine"\n\n{"question": "x"}': "line 3: columns question",
    '{"prompt": "  "}': "line 1: an empty prompt",
    '{"messages": []}': "line 1: an empty prompt",
    '{"prompt": 3}': "line 1: columns prompt",
    "7": "line 1: int",
    '{"messages": [{"role": "user", "content": "x"}, {"from": "gpt"}]}': "line 1: message 2 has no role and content",
    '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}': "line 1: ends with the",
    "\n \n": "no prompt",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_are_told_with_their_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(text)
    assert run("./no-model", "--file", file) == DataError.exit_code
    assert re.search(re.escape(str(file)) + ".*" + re.escape(FAULTS[text]), capsys.readouterr().err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "--prompt and --file: neither; one of them"),
        (("--prompt", "x", "--file", "x.txt"), "--prompt and --file: both; one of them"),
        (("--file", "nowhere.txt"), "nowhere.txt: no such file"),
        (("--file", "prompts.csv"), "prompts.csv: the ending '.csv'"),
        (("--prompt", "x", "--raw", "--system", "y"), "--system: a system prompt with --raw"),
        (("--prompt", "x"), "model ./no-model: no such folder"),
    ],
)
def test_wrong_words(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("./no-model", *words) == UserError.exit_code
    assert message in capsys.readouterr().err


def test_raw_conversations_and_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "x"}]}')
    assert run("./no-model", "--file", file, "--raw") == UserError.exit_code
    assert "--raw: prompt 1 is a conversation" in capsys.readouterr().err
    file.write_bytes(b"\xff\xfe\x00")
    assert run("./no-model", "--file", file) == DataError.exit_code
    assert "cannot be read" in capsys.readouterr().err
