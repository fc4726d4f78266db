# SPDX-License-Identifier: Apache-2.0
"""Both languages whole: no English sentence on the Chinese page, and the same numbers on both."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from luthier.study.said import templates
from luthier.web.gather import gather
from luthier.web.markup import LANGUAGES, dictionary, told
from luthier.web.page import page_of, parts_of

NUMBER = re.compile(r"[+−-]?\d(?:[\d,]*\d)?(?:\.\d+)?")
WORD = re.compile(r"[a-z]{3,}")
VOID = {"meta", "link", "input", "br", "path", "line", "circle", "polygon", "rect"}


class Spoken(HTMLParser):
    """The texts that a reader of one language sees, and the texts that are marked as being in each language."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[tuple[str, str]] = []
        self.seen: dict[str, list[str]] = {code: [] for code in LANGUAGES}
        self.pieces: dict[str, list[str]] = {code: [] for code in LANGUAGES}
        self.one_language: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        kind = given.get("class") if given.get("class") in LANGUAGES else ""
        if given.get("lang") and tag != "html" and not kind and tag != "label":
            self.one_language.append(str(given))
        if kind and not self._tongues():
            self.pieces[kind].append("")
        if tag not in VOID:
            self.open.append((tag, kind))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(tag in ("style", "script", "code", "label") for tag, _ in self.open):
            return
        tongues = self._tongues()
        for code in LANGUAGES:
            if tongues in (set(), {code}):
                self.seen[code].append(data)
            if tongues == {code}:
                self.pieces[code][-1] += data

    def _tongues(self) -> set[str]:
        """A piece inside a piece of the other language is never seen."""
        return {kind for _, kind in self.open if kind}


@pytest.fixture
def page(whole) -> Spoken:
    found = gather(whole)
    assert found.whole
    return Spoken(page_of(found))


def test_no_english_sentence_is_left_on_the_chinese_page(page):
    """Names and units stay as they are; the words of the English templates are nowhere."""
    english = {word for words in _all("en") for word in WORD.findall(_bare(words))}
    neutral = {word for words in _all("zh") for word in WORD.findall(words)}
    names = {"full", "base", "mine", "code", "math", "and"}  # of variants, a suite and its categories; a title
    read = re.sub(r"\w+\.\w+", "", " ".join(page.seen["zh"]))  # keys of recipes
    found = {word for word in WORD.findall(read) if word in english - neutral - names}
    assert found == set()
    assert page.one_language == [], "every sentence exists in both"
    assert len(re.findall(r"[\u4e00-\u9fff]", read)) > 1500
    assert {"seeds", "against", "better"} <= {word.lower() for word in re.findall(r"\w+", " ".join(page.seen["en"]))}


def test_no_chinese_is_left_on_the_english_page(page):
    assert re.findall(r"[\u3000-\u9fff]", " ".join(page.seen["en"])) == []


def test_both_languages_hold_the_same_numbers(page):
    english, chinese = page.pieces["en"], page.pieces["zh"]
    assert len(english) == len(chinese) > 100
    for one, other in zip(english, chinese, strict=True):
        assert sorted(NUMBER.findall(one)) == sorted(NUMBER.findall(other)), (one, other)
    assert sum(len(NUMBER.findall(one)) for one in english) > 100


def test_the_study_speaks_on_every_part_of_the_page(whole):
    parts = {name: Spoken(part).seen["zh"] for name, part in parts_of(gather(whole)).items()}
    said = {name: "".join(texts) for name, texts in parts.items()}
    assert "在相同的 alpha（16）与学习率（0.001）下，用 2 个种子，从 r=16 到 r=64，LoRA " in said["verdict"]
    assert "这里的成本（对各种子取均值）：全量微调用时 5.0 秒" in said["verdict"]
    assert "学习率部分专门测量这一点" in said["verdict"]
    assert said["verdict"].count("与 lora-r16 相比") == 1, "the plain sentence is not said twice"
    assert "受控：同一种子下，所有变体按相同次序看到相同样本" in said["differences"]
    assert "受控：" not in said["environment"], "said once"
    assert "预算：每次运行 5,000 个计入损失的词元，计划为 10 步" in said["environment"]
    assert "full（optim.learning_rate：所试的最大值）" in said["environment"]
    assert "rslora-r16 的得分高于 lora-r16" in said["claims"]
    assert "lora-r16 与 rslora-r64 的得分相同：成立" in said["claims"]
    assert "的差异。" in said["claims"], "how large a difference is not ruled out"


@pytest.mark.parametrize(
    "entry",
    [
        {"key": "nobody_says_this", "values": {}, "text": "As <i>written</i>."},
        {"key": "seeds_one", "values": {}, "text": "As <i>written</i>."},
        {"key": ["seeds_one"], "values": 3, "text": "As <i>written</i>."},
        {"key": "methods", "values": {"under": {"values": 1}, "parts": None}, "text": "As <i>written</i>."},
        {"text": "As <i>written</i>."},
        "As <i>written</i>.",
    ],
)
def test_a_sentence_that_is_not_known_stays_as_it_is_written(entry):
    assert told(entry) == '<span lang="en">As &lt;i&gt;written&lt;/i&gt;.</span>'


def test_values_of_sentences_are_escaped():
    made = told({"key": "seeds_one", "values": {"seed": "<script>`x`"}, "text": ""})
    assert made.count("&lt;script&gt;<code>x</code>") == 2
    assert "<script" not in made


def test_an_older_study_is_shown_in_the_language_it_was_written_in(whole):
    tree = json.loads((whole / "study.json").read_text("utf-8"))
    tree |= {key: [line["text"] for line in tree[key]] for key in ("verdict", "notes")}
    tree["controlled"] = tree["controlled"]["text"]
    (whole / "study.json").write_text(json.dumps(tree), "utf-8")
    parts = parts_of(gather(whole))
    assert '<span lang="en">At the same alpha (16)' in parts["verdict"]
    assert '<span lang="en">Controlled: ' in parts["differences"]


def _all(language: str) -> list[str]:
    return [*dictionary(language).values(), *templates(language).values()]


def _bare(words: str) -> str:
    return re.sub(r"\{[^}]*\}", " ", words)
