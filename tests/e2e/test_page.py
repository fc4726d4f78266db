# SPDX-License-Identifier: Apache-2.0
"""The report and the live page of a real study in a real Chromium: both themes, both languages, keyboard, paper."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest
import yaml
from tests.browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
STEPS = 4
MAIN = "from luthier.cli import main; main()"
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const bent = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * bent(r / 255) + 0.7152 * bent(g / 255) + 0.0722 * bent(b / 255);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255, 255];
  };
  const poor = [];
  let seen = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode, node = text.parentElement;
    if (!text.data.trim() || !node.getClientRects().length || node.closest('script,.hush,.skip')) continue;
    const style = getComputedStyle(node), ink = rgba(node.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(ink), light(ground(node))].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push([text.data.trim().slice(0, 30), ink, ground(node)].join(' | '));
  }
  return [seen, poor];
})()"""
VISIBLE = "(node) => node.getClientRects().length > 0"


def _study(folder, steps: int) -> dict:
    return {
        "title": "Ranks <b>&",
        "base": {
            "model": {"model_name_or_path": "embedded"},
            "data": {"train": [{"path": "embedded:train", "max_rows": 60}], "max_length": 128},
            "method": {"name": "lora", "r": 4, "lora_alpha": 16},
            "optim": {"learning_rate": 1.0e-3},
            "train": {"max_steps": steps, "per_device_train_batch_size": 2},
        },
        "variants": {"r4": {}, "r16": {"method.r": 16}, "rs16": {"method.r": 16, "method.use_rslora": True}},
        "seeds": [0, 1],
        "items": 20,
        "evaluate": "embedded",
        "output_dir": str(folder / "study"),
    }


def _command(*words: str) -> list[str]:
    return [sys.executable, "-c", MAIN, *words]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page that `luthier compare` leaves."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "study.yaml").write_text(yaml.safe_dump(_study(folder, STEPS), sort_keys=False), "utf-8")
    done = subprocess.run(
        _command("compare", str(folder / "study.yaml"), "--quiet"),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    path = folder / "study" / "report.html"
    assert path.name in done.stdout
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    made = Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture
def opened(browser, report):
    """Open the report; afterwards nothing may have gone wrong or out."""
    browser.errors.clear()
    browser.requests.clear()

    def open_it(**words):
        browser.open(report.as_uri(), **words)
        browser.run("document.getElementById('lang-en').click(); document.getElementById('theme-auto').click()")
        return browser

    yield open_it
    assert browser.errors == []
    assert {address for address in browser.requests if not address.startswith(("file:", "data:"))} == set()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_it_fits_the_window_in_both_themes(opened, width, dark, tmp_path):
    page = opened(width=width, dark=dark)
    assert page.run("document.documentElement.scrollWidth") <= width
    ground = page.run("getComputedStyle(document.body).backgroundColor")
    shade = sum(map(int, re.findall(r"\d+", ground)[:3]))
    assert (shade < 150) if dark else (shade > 700), ground
    assert page.run("document.title") == "Ranks <b>&"
    shown = page.run(f"[...document.querySelectorAll('figure svg')].filter({VISIBLE}).length")
    assert shown == page.run(f"[...document.querySelectorAll('figure')].filter({VISIBLE}).length") > 2
    least = page.run(
        f"Math.min(...[...document.querySelectorAll('figure svg text')].filter({VISIBLE})"
        ".map(t => t.getBoundingClientRect().height))"
    )
    assert least >= 10, "letters in pictures keep their size on a telephone"
    page.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000


def test_every_text_can_be_told_from_its_ground(opened):
    """WCAG 1.4.3 as rendered: each visible text against the colour behind it, in both themes."""
    for dark in (False, True):
        seen, poor = opened(dark=dark).run(CONTRAST)
        assert seen > 100
        assert poor == []


def test_languages_and_colours_are_switched(opened):
    page = opened()
    assert page.run("document.querySelector('#verdict h2').innerText.trim()") == "Result"
    page.run("document.getElementById('lang-zh').click()")
    assert page.run("document.querySelector('#verdict h2').innerText.trim()") == "结果"
    assert page.run("document.documentElement.lang") == "zh-CN"
    latin = page.run("document.querySelector('main').innerText")
    assert "Scores and costs" not in latin
    assert re.findall(r"\b[a-z]{3,} [a-z]{2,} [a-z]{2,}", latin) == [], "no English sentence is left"
    assert "所有区间与 p 值" in latin, "the study itself speaks Chinese"
    page.run("document.getElementById('theme-dark').click()")
    assert page.run("getComputedStyle(document.documentElement).colorScheme") == "dark"
    both = "document.getElementById('lang-zh')?.checked && document.getElementById('theme-dark')?.checked"
    for _ in range(3):  # the browser stores in its own time: a reload in the same instant may come before it
        page.wait(0.5)
        page.run("window.before = true")
        page.run("location.reload()")
        page.until("document.readyState === 'complete' && window.before === undefined")
        if page.run(both):
            break
    assert page.run(both), "both are remembered"


def test_it_works_without_a_script(browser, report):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report.as_uri())
        tree = browser.call("Accessibility.getFullAXTree")["nodes"]
        roles = [node["role"]["value"] for node in tree if not node["ignored"]]
        assert roles.count("main") == 1
        assert roles.count("table") > 4
        assert roles.count("image") + roles.count("img") > 2
        cells = [
            node["name"]["value"] for node in tree if node["role"]["value"] in ("cell", "gridcell") and "name" in node
        ]
        heat = [cell for cell in cells if re.fullmatch(r"\d\.\d\d \[\d\.\d\d,\s\d\.\d\d\]", cell)]
        assert len(heat) >= 8, "the intervals of categories are read out"
        named = [node["name"]["value"] for node in tree if node["role"]["value"] in ("image", "img") and "name" in node]
        assert any(name.startswith("Training loss by step: ") for name in named)
        assert not any("训练" in name for name in named), "the other language is not read out"
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_tables_are_sorted_by_keyboard(opened):
    page = opened()
    scores = "[...document.querySelectorAll('#table-scores-0 tbody tr')].map(r => Number(r.cells[1].dataset.sort))"
    before = page.run(scores)
    page.run("document.querySelectorAll('#table-scores-0 thead button')[1].focus()")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press("Enter")
    assert page.run(scores) == sorted(before, reverse=True)
    assert page.run("document.querySelectorAll('#table-scores-0 th')[1].getAttribute('aria-sort')") == "descending"
    page.press("Space")
    assert page.run(scores) == sorted(before)


def test_everything_is_reached_with_the_tab_key(opened):
    page = opened()
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(120):
        page.press("Tab")
        reached.add(
            page.run("document.activeElement.id || document.activeElement.href || document.activeElement.tagName")
        )
    assert {"lang-en", "theme-auto", "cost-1", "curve-1"} <= reached
    assert any(str(name).endswith("#scores") for name in reached)


def test_a_choice_shows_one_view(opened):
    page = opened()
    shown = f"[...document.querySelectorAll('#cost .view')].filter({VISIBLE}).length"
    first = page.run("document.querySelector('#cost .view figcaption').innerText")
    assert page.run(shown) == 1
    page.run("document.getElementById('cost-2').click()")
    assert page.run(shown) == 1
    assert (
        page.run(f"[...document.querySelectorAll('#cost .view')].find({VISIBLE}).querySelector('figcaption').innerText")
        != first
    )


def test_it_prints(opened, tmp_path):
    page = opened(dark=True, media="print", width=794)
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)", "paper is white"
    assert page.run("document.querySelector('nav').getClientRects().length") == 0
    wide = page.run(
        "[...document.querySelectorAll('table')].filter(t => t.getClientRects().length).map(t => t.scrollWidth)"
    )
    assert max(wide) <= 794
    page.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.slow
def test_the_live_page_follows_a_study_and_stops_a_run(browser, tmp_path):
    """A real study in one process, `luthier watch` in another, and a reader who presses the button."""
    tree = _study(tmp_path, 400)
    tree["variants"], tree["seeds"] = {"r4": {}, "quick": {"train.max_steps": 2}}, [0]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    with (
        subprocess.Popen(
            _command("compare", str(tmp_path / "study.yaml"), "--quiet", "--json"), stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        ) as study,
        _watching(study, tmp_path) as watch,
    ):  # fmt: skip
        try:
            line = watch.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", line).group()
            browser.errors.clear()
            browser.requests.clear()
            browser.open(address)
            browser.run("document.getElementById('lang-en').click()")
            step = "Number(document.querySelector('progress')?.value ?? 0)"
            first = browser.until(step, 120)
            assert browser.until(f"{step} > {first}", 60), "it follows without being loaded again"
            browser.until("!!document.querySelector('#curves svg')", 30)
            browser.run("document.querySelector('button.stop').click()")
            rows = "[...document.querySelectorAll('#table-runs tbody tr')]"
            row = f"{rows}.find(r => r.innerText.includes('r4/seed-0')).innerText"
            browser.until(f"/stopped/.test({row})", 60)
            browser.until("/1 of 2 runs done/.test(document.querySelector('.count').innerText)", 120)
            assert browser.errors == []
            assert all(request.startswith((address, "data:")) for request in browser.requests)
            out, err = study.communicate(timeout=120)
        finally:
            watch.kill()
            study.kill()
    assert study.returncode == 1, err
    failed = [run for run in json.loads(out)["runs"] if run.get("error")]
    assert [run["variant"] for run in failed] == ["r4"]
    assert re.search(r"stopped after step \d+ of 400, which is saved", failed[0]["error"])


def _watching(study, folder) -> subprocess.Popen[str]:
    """`luthier watch` on the folder, as soon as the study has made it."""
    until = time.monotonic() + 120
    while not (folder / "study" / "study.yaml").exists():
        assert study.poll() is None, study.stderr.read()
        assert time.monotonic() < until
        time.sleep(0.05)
    words = _command("watch", str(folder / "study"), "--port", "0")
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
