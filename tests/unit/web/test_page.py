# SPDX-License-Identifier: Apache-2.0
"""The page as text: whole, escaped, well built for keyboards and screen readers, readable in both themes."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import pytest
import yaml

from luthier.core.errors import RunFailed
from luthier.web.forms import ends
from luthier.web.gather import gather
from luthier.web.page import page_of, parts_of, write_page

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"

VOID = {"meta", "link", "input", "br", "img", "path", "line", "circle", "polygon", "rect"}


class Read(HTMLParser):
    """Elements in order, with their attributes and where they stand."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None], tuple[str, ...]]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes, _ in self.found if tag == name]


@pytest.fixture
def text(study):
    return page_of(gather(study))


def test_it_shows_every_part(study):
    parts = parts_of(gather(study))
    empty = {name for name, part in parts.items() if not part}
    assert empty == {"claims"}
    assert "claims (the study file makes none)" in parts["missing"]
    assert "floating-point operations (older runs did not count them)" in parts["missing"]
    assert "Compared with <" in re.sub(r"<span[^>]*>", "", parts["verdict"])
    assert "2 of 3 variants scored better" in parts["verdict"]
    assert "3 个变体中有 2 个得分更高" in parts["verdict"]


def test_nothing_is_loaded_and_only_its_own_script_runs(text):
    page = Read(text)
    assert [key for _, a, _ in page.found for key in a if key.startswith("on")] == []
    addresses = [a[key] for _, a, _ in page.found for key in ("src", "href", "action", "data") if a.get(key)]
    assert [address for address in addresses if not address.startswith(("#", "data:,"))] == []
    assert "url(" not in text
    assert "@import" not in text
    assert len(page.all("script")) == 1
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert re.search(r"script-src 'sha256-[\w+/=]+';", policy)


def test_hostile_texts_stay_texts(study):
    clean = page_of(gather(study))
    plan = yaml.safe_load((study / "study.yaml").read_text("utf-8"))
    nasty = f"bad{HOSTILE}".replace("/", "_")
    plan["title"], plan["variants"] = HOSTILE, {**plan["variants"], nasty: {}}
    (study / "study.yaml").write_text(yaml.safe_dump(plan), "utf-8")
    (study / "runs" / "full" / "seed-1").mkdir()
    (study / "runs" / "full" / "seed-1" / "error.txt").write_text(f"E: {HOSTILE}", "utf-8")
    recipe = study / "runs" / "r4" / "seed-0" / "recipe.yaml"
    recipe.write_text(recipe.read_text("utf-8").replace("name: lora", f"name: {json.dumps(HOSTILE)}"), "utf-8")
    predictions = study / "runs" / "rs16" / "seed-0" / "predictions-mine.jsonl"
    predictions.write_text(predictions.read_text("utf-8").replace('"math"', json.dumps(HOSTILE)), "utf-8")
    page, before = Read(page_of(gather(study))), Read(clean)
    assert len(page.all("script")) == len(before.all("script"))
    assert page.all("img") == []
    assert [key for _, a, _ in page.found for key in a if key.startswith("on")] == []
    said = "".join(page.texts)
    assert said.count("<script>alert('x')</script>") >= 5, "they are shown as they are"


def test_hostile_numbers_of_study_json_stay_texts(study):
    """A study.json that someone else wrote: strings where numbers belong are unknown, and never markup."""
    runs = [
        {"variant": r.variant, "seed": r.seed, "fingerprint": r.summary.get("fingerprint")}
        for r in gather(study).runs
        if r.state == "done"
    ]
    row = dict.fromkeys(("score", "delta", "verdict", "seconds", "p_holm", "runs", "flops"), HOSTILE) | {
        "variant": HOSTILE
    }
    told = {"title": "T", "suites": {HOSTILE: 3}, "rows": {HOSTILE: [row]}, "runs": runs, "verdict": [HOSTILE],
            "claims": [{"claim": HOSTILE, "holds": HOSTILE}], "controlled": HOSTILE, "notes": [HOSTILE],
            "differing": {HOSTILE: {"a": HOSTILE}}}  # fmt: skip
    (study / "study.json").write_text(json.dumps(told), "utf-8")
    page = Read(page_of(gather(study)))
    assert len(page.all("script")) == 1
    assert page.all("img") == []


def test_claims_are_told_in_both_languages(study):
    runs = [
        {"variant": r.variant, "seed": r.seed, "fingerprint": r.summary.get("fingerprint")}
        for r in gather(study).runs
        if r.state == "done"
    ]
    made = {"first": "rs16", "second": "r16", "suite": "mine", "delta_low": 0.1, "delta_high": 0.3, "p_holm": 0.0004}
    claims = [
        {"claim": "rs16 scores better than r16", "kind": "better", "delta": 0.2, "holds": True, **made},
        {"claim": "alike", "kind": "no_difference", "delta": 0.2, "holds": False, **made},
        {"claim": "something new", "kind": "other", "delta": None, "holds": "not shown", **made},
    ]
    (study / "study.json").write_text(json.dumps({"runs": runs, "claims": claims}), "utf-8")
    said = re.sub(r"<[^>]+>", "", parts_of(gather(study))["claims"])
    assert "rs16 scores better than r16rs16 的得分高于 r16" in said
    assert "✓ holds成立" in said
    assert "✕ does not hold不成立" in said
    assert "something new" in said
    assert "? not shown未能证实" in said
    assert "< 0.001" in said.replace("&lt;", "<")


def test_every_interval_of_a_category_is_read_not_pointed_at(study):
    """WCAG 2.1.1: what a title attribute holds is reached by a pointer alone."""
    parts = parts_of(gather(study))
    cells = gather(study).categories["mine"]
    for variant, cell in cells["math"].items():
        assert f">{ends(cell['low'], cell['high'], 2)}</span>" in parts["categories"], variant
    changes = [change for found in gather(study).forgetting.values() for change in found.values()]
    assert len(changes) == 8
    for change in changes:
        assert f">{ends(change['low'], change['high'], 2, sign=True)}</span>" in parts["forgetting"]
    assert parts["categories"].count('class="ends"') == sum(map(len, cells.values())) == 10
    assert "title=" not in parts["categories"] + parts["forgetting"]


def test_rewards_have_curves_where_runs_log_them(tmp_path, run_folder):
    runs = tmp_path / "s" / "runs"
    run_folder(runs / "dpo" / "seed-0", judged=True)
    run_folder(runs / "sft" / "seed-0")
    section = parts_of(gather(tmp_path / "s"), live=True)["curves"]
    page = Read(section)
    figures = [a["id"] for a in page.all("figcaption")]
    assert figures == [
        f"fig-curves-{axis}"
        for what in ("loss", "margins", "accuracies")
        for axis in (f"step-{what}", f"tokens-{what}", f"seconds-{what}", f"step-eval_{what}")
    ]
    said = re.sub(r"<[^>]+>", "", section)
    assert "Reward margin奖励差" in said
    left_out = "Variants that have no line yet, or no room: 1."
    assert [left_out in part for part in section.split("<figure>")[1:]] == [False] * 3 + [True] * 9
    margins = section.split('id="table-curves-step-margins"')[1].split("</table>")[0]
    assert "−0.700" in margins
    assert "+2.000" not in margins
    assert "2.000" in margins
    held_out = section.split('id="table-curves-step-eval_accuracies"')[1].split("</table>")[0]
    assert "0.750" in held_out


def test_without_rewards_there_is_the_loss_alone(study):
    section = parts_of(gather(study))["curves"]
    assert "<h3>" not in section
    assert "margins" not in section


def test_headings_go_down_one_at_a_time(text):
    levels = [int(tag[1]) for tag, _, _ in Read(text).found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


def test_ids_are_one_each_and_every_reference_finds_one(text):
    page = Read(text)
    ids = [a["id"] for _, a, _ in page.found if a.get("id")]
    assert sorted(ids) == sorted(set(ids))
    for _, a, _ in page.found:
        wanted = [*(a.get("aria-labelledby") or "").split(), *([a["for"]] if a.get("for") else [])]
        wanted += [a["href"][1:]] if str(a.get("href", "")).startswith("#") else []
        assert set(wanted) <= set(ids)


def test_tables_have_captions_and_scopes(text):
    page = Read(text)
    assert len(page.all("table")) == len(page.all("caption")) > 5
    heads = page.all("th")
    assert {head.get("scope") for head in heads} == {"col", "row"}


def test_pictures_have_words(text):
    page = Read(text)
    pictures = page.all("svg")
    assert len(pictures) > 10
    assert all(a.get("aria-labelledby") or a.get("aria-hidden") == "true" for a in pictures)
    shown = [a for a in pictures if a.get("role") == "img"]
    assert all(a.get("aria-labelledby", "").startswith("fig-") for a in shown)
    assert len(page.all("details")) == len(page.all("figcaption")), "the numbers of each picture stand below it"


def test_landmarks(text):
    page = Read(text)
    for name in ("header", "nav", "main", "footer"):
        assert len(page.all(name)) == 1
    assert all(a.get("aria-labelledby") for a in page.all("section"))
    assert page.found[0][:2] == ("html", {"lang": "en", "data-lang": "auto"})


def test_a_language_can_be_asked_for(study):
    page = Read(page_of(gather(study), "zh"))
    assert page.found[0][1]["lang"] == "zh-CN"
    assert next(a for a in page.all("input") if a["id"] == "lang-zh").get("checked", 0) is None


def test_the_same_folder_makes_the_same_page(study, text):
    assert page_of(gather(study)) == text


def test_one_run_alone(tmp_path, run_folder):
    page = write_page(run_folder(tmp_path / "first")).read_text("utf-8")
    assert "10 steps over 500 tokens in 5.0 s" in page
    assert {a["id"] for a in Read(page).all("section")} == {"verdict", "curves", "environment"}


def test_a_run_that_goes_on(tmp_path, run_folder):
    page = write_page(run_folder(tmp_path / "first", share=None, steps=4, total=12)).read_text("utf-8")
    assert "step 4 of 12" in page
    assert "<progress" in page


def test_a_study_before_its_first_step(tmp_path):
    (tmp_path / "study.yaml").write_text("title: Empty\nvariants: {a: {}}\nseeds: [0]\nevaluate: [x]\n", "utf-8")
    page = Read(write_page(tmp_path).read_text("utf-8"))
    said = " ".join(" ".join(page.texts).split())
    assert "There is no difference to report yet" in said
    assert "scores (no run was scored yet)" in said


def test_a_folder_of_studies(study):
    write_page(study.parent)
    index = (study.parent / "report.html").read_text("utf-8")
    assert 'href="a study/report.html"' in index
    assert (study / "report.html").exists()


def test_a_folder_that_cannot_be_written(study, monkeypatch):
    (study / "report.html.writing").mkdir()
    with pytest.raises(RunFailed, match="could not be written"):
        write_page(study)
