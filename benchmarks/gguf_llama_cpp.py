# SPDX-License-Identifier: Apache-2.0
"""Does llama.cpp say of exported GGUF files what transformers says of the models they were made from?

    npm install --prefix FOLDER node-llama-cpp          # a prebuilt llama.cpp (MIT); nothing is built
    python benchmarks/gguf_llama_cpp.py --node FOLDER [--models FOLDER] [--out FILE]

`--models` holds `stories260K/` (llama2.c's checkpoint and tokenizer) and `tokenizers/*/tokenizer.json`. For each model
and form: llama.cpp's greedy tokens behind 12 prompts beside transformers' of the trained model; KL(trained ||
llama.cpp) over all tokens of 8 rows beside the proof's KL(trained || file read by transformers), with keys and values
in float32; and the largest difference of two logits. For each tokenizer: ids of TEXTS and what is special. Exit code
1 where ids differ otherwise than the command says, a file of 32 bits gives another token, or llama.cpp is more than
5 % and 1e-3 nats farther from the trained model than the proof. (Of 16 and fewer bits llama.cpp rounds what it
multiplies, too: two likeliest tokens that are all but equal may change places, and another text follows then.)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf_texts import CHAT, FAMILIES, PROMPTS, PROSE, SIZES, TEXTS, TURNS
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import luthier
from luthier.export.forms import gguf as form
from luthier.export.trained import Request
from luthier.models.generate import stop_ids
from luthier.models.load import locate

FORMS = ("f32", "f16", "bf16", "q8_0", "q5_0", "q5_1", "q4_0", "q4_1")
HERE = Path(__file__).parent
NEW = 48


@dataclass(kw_only=True)
class Subject:
    """One exported file and what transformers says of the model behind it."""

    name: str
    kind: str
    file: Path
    tokenizer: Any
    model: Any
    proof: Any
    notes: str
    prompts: list[list[int]]
    rows: list[list[int]]
    answer: dict[str, Any] = field(default_factory=dict)

    @property
    def turns(self) -> list[str]:
        """The conversation as transformers renders it."""
        if not self.tokenizer.chat_template:
            return []
        return [self.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)]

    def job(self) -> dict[str, Any]:
        """What llama.cpp is asked."""
        chats = []
        if template := told(self.file, "tokenizer.chat_template"):
            ends = {name: getattr(self.tokenizer, name) or "" for name in ("bos_token", "eos_token")}
            values = {"messages": CHAT, "add_generation_prompt": True, **ends}
            chats.append({"template": template, "values": values})
        return {
            "file": str(self.file), "texts": [*TEXTS, *self.turns], "chats": chats, "prompts": self.prompts,
            "rows": self.rows, "new": NEW, "logits": str(self.file) + ".logits",
            "words": self.model.config.vocab_size, "context": 256,
        }  # fmt: skip


def main() -> int:
    """Train, export, ask llama.cpp, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", type=Path, required=True, help="Where node-llama-cpp was installed.")
    parser.add_argument("--models", type=Path, help="stories260K/ and tokenizers/.")
    parser.add_argument("--only", default="", help="Models whose name has this word.")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, help="Write the tables there too.")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gguf-") as name:
        scratch = Path(name)
        subjects = [*trained(scratch, args), *families(scratch, args), *tokenizers(scratch, args)]
        release = ask(subjects, args.node, scratch)
        lines, faults = compare(subjects)
    head = f"llama.cpp {release}, CPU, one thread; transformers on the trained model in float32"
    text = "\n".join([head, "", *lines, "", *(faults or ["nothing differs that must not"])])
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")
    return bool(faults)


def trained(scratch: Path, args: argparse.Namespace) -> list[Subject]:
    """Models that a LoRA has moved, merged into every form."""
    words = {"max_steps": args.steps, "per_device_train_batch_size": 8}
    common = {"method": {"name": "lora", "r": 16}, "optim": {"learning_rate": 2e-3}, "train": words}
    runs = {"embedded, LoRA": {"model": {"model_name_or_path": "embedded"}, "data": {"train": "embedded:train"}}}
    if args.models:
        place = scratch / "stories260K"
        files = [str(args.models / "stories260K" / file) for file in ("checkpoint_v1.bin", "tokenizer.bin")]
        script = HERE.parent / "examples" / "llama2c_to_transformers.py"
        subprocess.run([sys.executable, str(script), *files, str(place)], check=True, stdout=subprocess.DEVNULL)
        rows = scratch / "stories.jsonl"
        rows.write_text("".join(json.dumps({"text": f"{text} {text}"}) + "\n" for text in PROSE))
        data = {"train": str(rows), "max_length": 256}
        runs["stories260K, LoRA"] = {"model": {"model_name_or_path": str(place)}, "data": data}
    found = []
    for name in filter(lambda name: args.only in name, runs):
        folder, sections = scratch / name.replace(", ", "-"), runs[name]
        luthier.train({**common, **sections, "output_dir": str(folder)})
        found += [exported(name, folder, scratch, kind) for kind in FORMS]
    return found


def families(scratch: Path, args: argparse.Namespace) -> list[Subject]:
    """Random models of every kind that is written, with the built-in tokenizer."""
    words = AutoTokenizer.from_pretrained(locate("embedded"))
    found = []
    for name in filter(lambda name: args.only in name, FAMILIES):
        kind, more = FAMILIES[name]
        folder = random_model(scratch / name.replace(" ", "-"), words, kind, more)
        found += [exported(name, folder, scratch, kind) for kind in ("f32", "q8_0")]
    return found


def tokenizers(scratch: Path, args: argparse.Namespace) -> list[Subject]:
    """Real tokenizers, each with a random model of its size."""
    found = []
    for file in sorted(args.models.glob("tokenizers/*/tokenizer.json")) if args.models else ():
        if args.only not in f"tokenizer {file.parent.name}":
            continue
        words = AutoTokenizer.from_pretrained(file.parent)
        if words.eos_token:
            words.chat_template = words.chat_template or f"{words.bos_token or ''}{TURNS}"
        folder = random_model(scratch / f"words-{file.parent.name}", words, "llama", {"tie_word_embeddings": True})
        found.append(exported(f"tokenizer {file.parent.name}", folder, scratch, "f16", rows=0))
    return found


def random_model(folder: Path, words: Any, kind: str, more: dict[str, Any]) -> Path:
    """A folder with a random model, its vectors moved too."""
    torch.manual_seed(7)
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    config = AutoConfig.for_model(kind, **(SIZES | {"vocab_size": len(words)} | ends | more))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def exported(name: str, source: Path, scratch: Path, kind: str, rows: int = len(PROSE)) -> Subject:
    """Write one form."""
    said: list[str] = []
    output = scratch / f"{source.name}-{kind}"
    request = Request(source=source, output=output, texts=PROSE, bound=1.0, say=said.append)
    done = form.write(request, form.Config(dtype=kind))
    model, words = luthier.load(str(source), "float32")
    model.set_attn_implementation("eager")
    parts = {
        "prompts": [words(text)["input_ids"] for text in PROMPTS] if rows else [],
        "notes": " ".join(line for line in said if line.startswith("note:")),
        "rows": [words(text)["input_ids"][:96] for text in PROSE[:rows]],
    }
    file = next(output.glob("*.gguf"))
    return Subject(name=name, kind=kind, file=file, tokenizer=words, model=model, proof=done.proof, **parts)


def ask(subjects: list[Subject], node: Path, scratch: Path) -> str:
    """Let llama.cpp answer all; its release."""
    jobs, answers = scratch / "jobs.json", scratch / "answers.json"
    jobs.write_text(json.dumps([subject.job() for subject in subjects]), encoding="utf-8")
    script = HERE / "gguf_llama_cpp.mjs"
    subprocess.run(["node", str(script), str(node.resolve()), str(jobs), str(answers)], check=True)
    found = json.loads(answers.read_text(encoding="utf-8"))
    for subject, answer in zip(subjects, found["answers"], strict=True):
        subject.answer = answer
    return str(found["release"]["release"])


def compare(subjects: list[Subject]) -> tuple[list[str], list[str]]:
    """A line for each file, and what must not be."""
    head = f"{'model':24} {'form':5} {'same greedy tokens':>18} {'KL, proof':>10} {'KL, llama.cpp':>13} {'logits':>8}"
    lines, faults = [head], []
    for one in subjects:
        where = f"{one.name}, {one.kind}"
        if "error" in one.answer:
            faults.append(f"{where}: llama.cpp says: {one.answer['error']}")
            continue
        wrong, known = words_differ(one)
        faults += [f"{where}: {fault}" for fault in wrong]
        if not one.rows:
            count = len(TEXTS) + len(one.turns)
            lines.append(f"{where}: {count - len(wrong) - known} of {count} texts have the same ids; known: {known}")
        if not one.rows:
            continue
        same, count = greedy(one)
        kl, most = distance(one)
        mean = one.proof.mean_kl
        lines.append(f"{one.name:24} {one.kind:5} {f'{same} of {count}':>18} {mean:10.2g} {kl:13.2g} {most:8.2g}")
        if one.kind == "f32" and same < count:
            faults.append(f"{where}: {same} of {count} greedy tokens")
        if kl > 1.05 * mean + 1e-3:
            faults.append(f"{where}: KL {kl:.2g} nats from the trained model, the proof {mean:.2g}")
    return lines, faults


def words_differ(one: Subject) -> tuple[list[str], int]:
    """Ids, special tokens and rendered chats that are others; and how many texts differ as the command says they do."""
    found, known = [], 0
    for text, ids in zip([*TEXTS, *one.turns], one.answer["texts"], strict=True):
        mine = one.tokenizer(text, add_special_tokens=False)["input_ids"]
        changed = "change text" in one.notes and unicodedata.normalize("NFC", text) != text
        if mine != ids and (changed or ("puts a space" in one.notes and text not in one.turns)):
            known += 1
        elif mine != ids:
            found.append(f"{text[:40]!r} is {one.tokenizer.convert_ids_to_tokens(mine)[:12]}, llama.cpp "
                         f"{one.tokenizer.convert_ids_to_tokens(ids)[:12]}")  # fmt: skip
    special, words = one.answer["special"], one.tokenizer
    begins = words("a")["input_ids"][0] == words.bos_token_id and words.bos_token_id is not None
    if special["add_bos"] != begins:
        found.append(f"a text begins with BOS: {begins}, llama.cpp {special['add_bos']}")
    if missing := {*stop_ids(one.model, words)} - {*special["ends"]}:
        found.append(f"does not end at {words.convert_ids_to_tokens(sorted(missing))}")
    for text, mine in zip(one.answer["chats"], one.turns, strict=True):
        if text != mine:
            found.append(f"the chat {mine!r} is rendered {text!r}")
    return found, known


@torch.no_grad()
def greedy(one: Subject) -> tuple[int, int]:
    """Greedy tokens that are the same up to the first that is not, and how many transformers gives."""
    same = count = 0
    ends = one.answer["special"]["ends"]
    for prompt, reply in zip(one.prompts, one.answer["replies"], strict=True):
        ids = torch.tensor([prompt])
        words = {"do_sample": False, "max_new_tokens": NEW, "eos_token_id": ends, "repetition_penalty": 1.0}
        mine = one.model.generate(ids, attention_mask=torch.ones_like(ids), **words)[0, len(prompt) :].tolist()
        count += len(mine)
        same += next(
            (i for i, (a, b) in enumerate(zip(mine, reply, strict=False)) if a != b), min(len(mine), len(reply))
        )
    return same, count


@torch.no_grad()
def distance(one: Subject) -> tuple[float, float]:
    """Mean KL(trained || llama.cpp) in nats, and the largest difference of two logits."""
    theirs = torch.from_numpy(np.fromfile(str(one.file) + ".logits", "<f4")).view(-1, one.model.config.vocab_size)
    mine = torch.cat([one.model(torch.tensor([row]), use_cache=False).logits[0].float() for row in one.rows])
    p, q = (torch.log_softmax(logits.double(), -1) for logits in (mine, theirs))
    return float((p.exp() * (p - q)).sum(-1).mean()), float((mine - theirs).abs().max())


def told(file: Path, key: str) -> Any:
    """A field of a GGUF file, or None."""
    import gguf

    found = gguf.GGUFReader(file).fields.get(key)
    return found.contents() if found else None


if __name__ == "__main__":
    sys.exit(main())
