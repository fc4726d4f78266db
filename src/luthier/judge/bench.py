# SPDX-License-Identifier: Apache-2.0
"""A bench: a folder of questions, prompts for the judge and reference answers, and where answers and judgments go.

question.jsonl  judge_prompts.jsonl           what is asked, and how the judge is asked (FastChat's files)
reference_answer/NAME.jsonl                   right answers, for the categories that need them
model_answer/MODEL.jsonl                      what models answered; the file's name is the model's
model_judgment/JUDGE_single.jsonl, _pair      what the judge said
replies/                                      every reply of a judge, by what was asked (`cache.py`)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from luthier.core import registry
from luthier.core.errors import DataError, UserError, did_you_mean
from luthier.judge.lines import column, read_lines, texts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

KIND = "judge.benches"
OWN = "embedded"  # the name of the bench that ships
Id = int | str


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a model is asked, turn by turn.

    Attributes:
        id: As in the file.
        category: What scores are given by.
        turns: What the user says.
        reference: Right answers to the turns, where the bench's own question file has them.
    """

    id: Id
    category: str
    turns: tuple[str, ...]
    reference: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """How the judge is asked: a system prompt, and a template with fields in braces."""

    name: str
    system: str
    template: str


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question to the judge: the name of the prompt, and the messages it became."""

    prompt: str
    system: str
    user: str

    @property
    def messages(self) -> tuple[dict[str, str], ...]:
        """As the protocol has them; without a system message where the prompt has none."""
        first = ({"role": "system", "content": self.system},) if self.system else ()
        return (*first, {"role": "user", "content": self.user})


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A folder that was read.

    Attributes:
        rules: The module of `judge/benches` that knows this kind of folder.
        folder: Where its questions stand.
        output: Where answers, judgments and replies go.
        questions: In the file's order.
        prompts: By name.
    """

    rules: ModuleType
    folder: Path
    output: Path
    questions: tuple[Question, ...]
    prompts: Mapping[str, Prompt] = field(default_factory=lambda: MappingProxyType({}))

    def find(self, *parts: str) -> Path:
        """A file of the output folder, else of the bench's own."""
        written = self.output.joinpath(*parts)
        return written if written.exists() else self.folder.joinpath(*parts)

    def names(self, part: str) -> dict[str, Path]:
        """The JSON Lines files of a folder by name, those of the output folder before the bench's own."""
        files = [*self.folder.joinpath(part).glob("*.jsonl"), *self.output.joinpath(part).glob("*.jsonl")]
        return dict(sorted((file.stem, file) for file in files if not file.name.startswith(".")))


def open_bench(place: str, output: Path | None = None, items: int | None = None) -> Bench:
    """Read a bench's questions and prompts.

    Args:
        place: A folder, or `embedded` for the bench that ships.
        output: Where answers and judgments go; the bench's own folder unless given.
        items: Only the first so many questions.

    Raises:
        DataError: There is no such folder, it is of no known kind, or a row cannot be used.
        UserError: The bench that ships has no output folder.
    """
    folder = Path(__file__).parent / "own" if place == OWN else Path(place).expanduser()
    if place == OWN and output is None:
        raise UserError("--bench embedded", "no --output", "a folder for answers and judgments", "add --output DIR")
    if not folder.is_dir():
        raise DataError(f"bench {place}", "no such folder", f"a folder with questions, or {OWN}", "check the path")
    rules = kind_of(folder)
    questions, prompts = rules.read(folder)
    if not questions:
        raise DataError(f"bench {place}", "no question", "at least one")
    if len({one.id for one in questions}) < len(questions):
        raise DataError(f"bench {place}", "two questions with one id", "an id for each", "correct question_id")
    return Bench(
        rules=rules, folder=folder, output=output or folder, questions=tuple(questions[:items]), prompts=prompts
    )


def kind_of(folder: Path) -> ModuleType:
    """The module that reads such a folder, told by the file that its questions stand in.

    Raises:
        DataError: None does.
    """
    kinds = {name: registry.get(KIND, name) for name in registry.entries(KIND)}
    for rules in kinds.values():
        if (folder / rules.QUESTIONS).is_file():
            return rules
    allowed = ", or ".join(f"{rules.QUESTIONS} ({name})" for name, rules in kinds.items())
    raise DataError(f"bench {folder}", "no file of questions", allowed, "name the folder that holds one")


def answers_of(bench: Bench, model: str) -> dict[Id, tuple[str, ...]]:
    """The first choice of each answer in `model_answer/MODEL.jsonl`, by question; of two rows the last one counts.

    Raises:
        DataError: There is no such file, or a question of the bench has no answer or too few turns.
    """
    known = bench.names("model_answer")
    if model not in known:
        where = f"model {model}"
        fix = did_you_mean(model, known) if known else "`luthier judge answers RUN --bench DIR` writes one"
        raise DataError(where, f"no {bench.output / 'model_answer' / model}.jsonl", "a file of answers", fix)
    found = read_answers(known[model])
    lacking = [one.id for one in bench.questions if len(found.get(one.id, ())) < len(one.turns)]
    if lacking:
        some = ", ".join(map(str, lacking[:5])) + (" ..." if len(lacking) > 5 else "")
        received = f"no answer (to every turn) of {len(lacking)} questions: {some}"
        raise DataError(str(known[model]), received, "an answer to each", "generate them, or judge fewer with --items")
    return found


def read_answers(file: Path) -> dict[Id, tuple[str, ...]]:
    """Question -> what was answered, turn by turn, of FastChat's answer file."""
    found = {}
    for where, row in read_lines(file):
        choices: Sequence[Any] = column(row, "choices", list, where)
        if not choices or not isinstance(choices[0], dict):
            raise DataError(where, "no choice", 'choices: [{"index": 0, "turns": [...]}]', "mend the line")
        found[column(row, "question_id", (int, str), where)] = texts(choices[0].get("turns"), "turns", where)
    return found


def references_of(bench: Bench, judge: str, name: str | None = None) -> tuple[dict[Id, tuple[str, ...]], str]:
    """Reference answers by question, and the name of what they were read from.

    FastChat reads `reference_answer/JUDGE.jsonl`; where the judge has none and there is one file, that one is taken.

    Raises:
        DataError: There is no such file, or there are several and none is the judge's.
    """
    own = {one.id: one.reference for one in bench.questions if one.reference}
    known = bench.names("reference_answer")
    chosen = name or (judge if judge in known else next(iter(known), None) if len(known) == 1 else None)
    if chosen is None and not known:
        return own, ""
    if chosen is None or chosen not in known:
        received = f"no {name or judge}.jsonl"
        raise DataError(f"{bench.folder}/reference_answer", received, ", ".join(known), "choose one with --reference")
    return own | read_answers(known[chosen]), chosen
