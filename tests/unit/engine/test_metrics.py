# SPDX-License-Identifier: Apache-2.0
"""metrics.jsonl: means over intervals, and lines that survive kills and resumptions."""

from __future__ import annotations

import json

import pytest

from luthier.core.errors import RunFailed
from luthier.engine import metrics
from luthier.engine.step import StepResult


def result(loss, units):
    return StepResult(
        sums={"loss": loss * units, "margin": 2.0 * units}, units=units, tokens=7, scored_tokens=5, rows=()
    )


def test_a_mean_weighs_every_unit_the_same():
    interval = metrics.Interval()
    interval.add(result(1.0, 10), 0.5)
    interval.add(result(4.0, 30), 0.25)
    assert interval.means() == {"loss": 3.25, "margin": 2.0}
    assert (interval.tokens, interval.seconds) == (14, 0.75)


def test_one_step_is_its_own_mean():
    one = result(0.1 + 0.2, 3)
    interval = metrics.Interval()
    interval.add(one, 1.0)
    assert interval.means()["loss"] == one.loss


def test_lines_are_json(tmp_path):
    metrics.append(tmp_path, {"step": 1, "loss": 0.5, "margin": float("nan"), "norm": float("inf")})
    metrics.append(tmp_path, {"step": 2, "loss": 0.25})
    lines = [json.loads(line) for line in (tmp_path / metrics.NAME).read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5, "margin": None, "norm": None}, {"step": 2, "loss": 0.25}]


@pytest.mark.parametrize(("step", "left"), [(0, []), (1, [1]), (2, [1, 2, 2]), (9, [1, 2, 2, 3])])
def test_cut(tmp_path, step, left):
    path = tmp_path / metrics.NAME
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 2, "eval_loss": 1}\n{"step": 3}\n{"step": 4, "lo')
    metrics.cut(tmp_path, step)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == left
    assert [file.name for file in tmp_path.iterdir()] == [metrics.NAME]


@pytest.mark.parametrize("torn", [b"\x00\x00\x00", b"\xff\xfe", b"[]", b"{}", b"7", b'{"step": "x"}'])
def test_what_a_power_cut_leaves(tmp_path, torn):
    path = tmp_path / metrics.NAME
    path.write_bytes(b'{"step": 1}\n' + torn + b'\n{"step": 2}\n')
    metrics.cut(tmp_path, 5)
    assert path.read_text() == '{"step": 1}\n'


def test_a_kill_while_cutting_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / metrics.NAME
    path.write_text('{"step": 1}\n{"step": 2}\n')

    def killed(*_):
        raise SystemExit

    monkeypatch.setattr("pathlib.Path.replace", killed)
    with pytest.raises(SystemExit):
        metrics.cut(tmp_path, 1)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_nothing_there(tmp_path):
    metrics.cut(tmp_path, 3)
    metrics.settle(tmp_path)
    assert not list(tmp_path.iterdir())


def test_unwritable(tmp_path):
    (tmp_path / metrics.NAME).mkdir()
    with pytest.raises(RunFailed, match=r"metrics.jsonl: could not be written \(Is a directory\); checkpoints written"):
        metrics.append(tmp_path, {"step": 1})
