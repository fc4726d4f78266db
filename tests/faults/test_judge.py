# SPDX-License-Identifier: Apache-2.0
"""Judging at an endpoint that fails, and killed at any instant: nothing is lost, scored 0, paid twice, or leaked."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from tests.endpoint import Endpoint, answers
from tests.runs import start

import luthier
from luthier.core.errors import RunFailed
from luthier.judge.bench import open_bench, references_of
from luthier.judge.client import Client
from luthier.judge.judging import Judging
from luthier.judge.matches import plan
from luthier.judge.queue import Patience

pytest.importorskip("openai")

KEY = "sk-secret-0123456789abcdef"
HASTE = Patience(parallel=16, attempts=12, first=0.02, longest=0.1)


@pytest.fixture
def bench(tmp_path):
    folder = tmp_path / "bench"
    shutil.copytree(Path(luthier.__file__).parent / "judge" / "own", folder)
    answers(folder, "one", "two", "three")
    return folder


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def _rows(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _judged(folder, mode="single", **client):
    bench = open_bench(str(folder))
    references, _ = references_of(bench, "judge")
    judging = Judging(bench, "judge")
    todo = judging.plan(plan(bench, ["one", "two", "three"], references, mode, "three"))
    return judging, todo, Client("judge", **client)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["single", "pairwise-all"])
def test_a_third_of_the_requests_goes_wrong(bench, mode):
    # A busy machine takes seconds for a reply; one that came too late would count as answered twice.
    with Endpoint(share=0.3, hang=11.0) as endpoint:
        judging, todo, client = _judged(bench, mode, base_url=endpoint.url, timeout=10.0)
        outcome = judging.run(todo, client, HASTE)
    rows = _rows(outcome.file)
    assert len(todo.matches) == 96 == len(rows) + len(outcome.failed)
    assert outcome.failed == []  # 12 attempts: one fails with chance 5e-7
    assert (
        len(
            {
                (row["question_id"], row.get("model"), row.get("model_1"), row.get("model_2"), row["turn"])
                for row in rows
            }
        )
        == 96
    )
    assert set(endpoint.answered.values()) == {1}
    assert len(endpoint.answered) == len(todo.requests) == (96 if mode == "single" else 192)
    assert {"429", "500", "hang", "broken", "half", "empty", "drop"} < set(endpoint.seen)
    again = _judged(bench, mode, base_url=endpoint.url)[1]
    assert (again.done, list(again.requests)) == (96, [])


def test_what_fails_is_named_and_not_scored(bench):
    with Endpoint(share=0.5, faults=("500", "empty")) as endpoint:
        judging, todo, client = _judged(bench, base_url=endpoint.url)
        outcome = judging.run(todo, client, Patience(attempts=1, parallel=4, first=0.01))
        failed = _rows(outcome.file.with_name("judge_single_failed.jsonl"))
        assert len(failed) == len(outcome.failed) > 20
        assert len(_rows(outcome.file)) + len(failed) == 96
        assert {row["reason"] for row in failed} == {
            "500 Bad key [key] or whatever",
            "an empty reply (finish_reason missing)",
        }
        endpoint.share = 0.0
        judging, todo, client = _judged(bench, base_url=endpoint.url)
        outcome = judging.run(todo, client, HASTE)
    assert (outcome.judged, outcome.done, outcome.failed) == (len(failed), 96 - len(failed), [])
    assert not outcome.file.with_name("judge_single_failed.jsonl").exists()
    assert set(endpoint.answered.values()) == {1}


def _start(bench, endpoint):
    options = "--model judge --yes --parallel 4 --timeout 60 --price-in 1 --price-out 2".split()
    return start("judge", "--bench", bench, "--base-url", endpoint.url, *options)


def _kept(bench):
    """What was asked, of each reply on the disk."""
    files = bench.glob("replies/*/*.json")
    return {json.dumps(json.loads(file.read_text("utf-8"))["request"], sort_keys=True) for file in files}


@pytest.mark.slow
def test_killed_and_started_again(bench):
    excused: Counter[str] = Counter()  # answered, and not yet on the disk when the process was gone
    seen = random.Random(5)
    with Endpoint(share=0.2, faults=("429", "500", "half"), slow=0.05) as endpoint:
        for kill in range(1, 6):
            process = _start(bench, endpoint)
            target = 15 * kill + seen.randrange(5)
            while endpoint.answered.total() - excused.total() < target and process.poll() is None:
                time.sleep(0.002)
            process.kill()
            said = process.communicate()
            assert process.returncode == -9, said
            endpoint.settled()
            excused.update({asked: 1 for asked in set(endpoint.answered) - _kept(bench)})
            assert len(_kept(bench)) >= target - 4
        process = _start(bench, endpoint)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    rows = _rows(bench / "model_judgment" / "judge_single.jsonl")
    assert len(rows) == len({(row["question_id"], row["model"], row["turn"]) for row in rows}) == 96
    assert len(endpoint.answered) == 96
    twice = {asked: count - 1 for asked, count in endpoint.answered.items() if count > 1}
    assert {asked: count for asked, count in twice.items() if count > excused[asked]} == {}
    assert excused.total() <= 5 * 4
    assert not list(bench.rglob("*.writing-*"))[5:]  # a kill leaves one half-written file at most
    _no_key(bench, out + err)


@pytest.mark.parametrize("word", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_hand(bench, word):
    with Endpoint(slow=0.1) as endpoint:
        process = _start(bench, endpoint)
        while endpoint.answered.total() < 8:
            time.sleep(0.01)
        process.send_signal(word)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        kept = len(_kept(bench))
        assert f"stopped after {kept} of 96 replies; the same command goes on" in err
        assert kept >= 4
        judging, todo, client = _judged(bench, base_url=endpoint.url)
        assert len(todo.requests) == 96 - kept
        assert len(_rows(judging.run(todo, client, HASTE).file)) == 96


def test_a_full_disk_ends_it(bench, monkeypatch):
    """What is written stays; the run says why it cannot go on."""
    written = []

    def full(file, target):
        if target.parent.parent.name == "replies" and len(written) == 10:
            raise OSError(28, "No space left on device")
        written.append(target)
        return original(file, target)

    original = Path.replace
    with Endpoint() as endpoint:
        judging, todo, client = _judged(bench, base_url=endpoint.url)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with pytest.raises(RunFailed, match="No space left on device"):
                judging.run(todo, client, HASTE)
        assert len(_kept(bench)) == 10
        assert list(bench.rglob("*.writing-*")) == []
        judging, todo, client = _judged(bench, base_url=endpoint.url)
        assert len(todo.requests) == 86


def _no_key(folder, *texts):
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert len(files) > 90
    assert [file for file in files if KEY.encode() in file.read_bytes()] == []
    assert [text for text in texts if KEY in text] == []


def test_no_key_in_any_file_or_word(bench, command, caplog):
    with Endpoint(share=0.4, faults=("401",)) as endpoint:
        words = ["judge", "--bench", bench, "--model", "judge", "--yes", "--base-url", endpoint.url]
        said = command(*words)
        assert said.code == 1
        assert "refuses the key (401 Bad key [key] or whatever)" in said.err
        assert "replies that came are kept" in said.err
        endpoint.share = 0.0
        done = command(*words, "--json")
        assert done.code == 0
        assert endpoint.keys == {f"Bearer {KEY}"}
    assert json.loads(done.out)["judged"] == 96
    _no_key(bench, said.out, said.err, done.out, done.err, caplog.text)
