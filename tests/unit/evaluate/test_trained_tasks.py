# SPDX-License-Identifier: Apache-2.0
"""What predictions of trained tasks are worth: metrics, each row's share, and texts of answers over windows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.core.tasks import Labelled, Labels, Question, Tagged, Texts
from luthier.evaluate import answers, labels, tags, vectors
from luthier.evaluate.samples import Sample, bare_samples, read_samples, typed_samples
from luthier.evaluate.shares import of_counts, of_lists
from luthier.metrics.spearman import spearman
from luthier.recipe.schema import Source

NAN = float("nan")


def reader(
    names: tuple[str, ...] = (), problem: str = "single_label_classification", *, fixed: bool = False, **config: Any
) -> Any:
    told = Labels(names=names, problem=problem, fixed=fixed) if names else None  # type: ignore[arg-type]
    return SimpleNamespace(
        names=names, purpose=SimpleNamespace(labels=told), config=SimpleNamespace(**config), lay=None, read=None
    )


def samples(*examples: Any) -> list[Sample]:
    return [Sample(name=f"row {n}", example=example) for n, example in enumerate(examples)]


def test_shares_have_the_metric_as_their_mean_and_the_jackknifes_variance():
    random = np.random.default_rng(0)
    counts = random.integers(0, 4, (30, 2)) + np.array([0, 4])
    ratio = lambda sums: float(sums[0] / sums[1])  # noqa: E731
    shares = of_counts(counts, ratio)
    whole = ratio(counts.sum(0))
    assert shares.mean() == pytest.approx(whole, rel=1e-12)
    without = np.array([ratio(np.delete(counts, i, 0).sum(0)) for i in range(30)])
    jackknife = 29 / 30 * ((without - without.mean()) ** 2).sum()
    assert shares.var(ddof=1) / 30 == pytest.approx(jackknife, rel=1e-12)
    x, y = random.normal(size=(2, 20))
    assert of_lists(x, y, spearman).mean() == pytest.approx(spearman(x, y), rel=1e-12)
    mean = of_counts(np.stack([x, np.ones(20)], 1), lambda sums: float(sums[0] / sums[1]))
    assert mean == pytest.approx(x, rel=1e-9)  # of a mean a row's share is its own value


def test_labels():
    rows = samples(*(Labelled(text="t", labels=(name,)) for name in ("a", "b", "a", "unknown")))
    found = labels.judge(reader(("a", "b")), rows, [{"label": name} for name in ("a", "a", "a", "b")])
    assert (found.metric, found.value) == ("accuracy", 0.5)
    assert found.values.tolist() == [1.0, 0.0, 1.0, 0.0]
    several = samples(Labelled(text="t", labels=("a", "b")), Labelled(text="t", labels=()))
    found = labels.judge(
        reader(("a", "b"), "multi_label_classification"), several, [{"labels": ["a", "b"]}, {"labels": ["b"]}]
    )
    assert found.metrics == pytest.approx({"accuracy": 0.5, "f1_micro": 4 / 5, "f1_macro": (1 + 2 / 3) / 2})
    values = samples(*(Labelled(text="t", labels=(value,)) for value in (1.0, 2.0, 3.0, 4.0)))
    found = labels.judge(reader(("v",), "regression"), values, [{"value": v} for v in (0.1, 0.3, 0.2, 0.9)])
    assert found.metrics["spearman"] == pytest.approx(0.8)
    assert found.values.mean() == pytest.approx(0.8)


def test_labels_by_number_as_a_recipe_fixed_their_order():
    rows = samples(*(Labelled(text="t", labels=(name,)) for name in ("1", 0.0, "bad", "1")))
    said = [{"label": name} for name in ("good", "bad", "bad", "bad")]
    found = labels.judge(reader(("bad", "good"), fixed=True), rows, said)
    assert (found.values.tolist(), found.metrics["f1_macro"]) == ([1, 1, 1, 0], pytest.approx((0.8 + 2 / 3) / 2))
    words = samples(Tagged(words=("x", "y"), tags=("1", "0")))
    assert tags.judge(reader(("O", "B-P"), fixed=True), words, [{"tags": ["B-P", "O"]}]).value == 1.0
    with pytest.raises(DataError, match=r"labels 1, 0, of which the model knows none; its own: O, B-P"):
        tags.judge(reader(("O", "B-P")), words, [{"tags": ["B-P", "O"]}])
    with pytest.raises(DataError, match="of which the model knows none"):
        labels.judge(reader(("a", "b")), rows[:1], [{"label": "a"}])


def test_zeros_and_ones_for_each_class():
    rows = samples(Labelled(text="t", labels=(1.0, 0.0, 1.0)), Labelled(text="t", labels=(0.0, 0.0, 0.0)))
    model = reader(("0", "1", "2"), "multi_label_classification")
    found = labels.judge(model, rows, [{"labels": ["0", "2"]}, {"labels": ["1"]}])
    assert (found.metric, found.values.tolist()) == ("accuracy", [1.0, 0.0])
    with pytest.raises(DataError, match="row 0: labels are not 0 or 1 for each class"):
        labels.judge(model, samples(Labelled(text="t", labels=(1.0,))), [{"labels": []}])


@pytest.mark.parametrize(
    ("problem", "given", "said"),
    [
        ("single_label_classification", (), "row 0: 0 labels; one label"),
        ("single_label_classification", ("a", "b"), "row 0: 2 labels; one label"),
        ("regression", ("a",), r"row 0: a label that is not a number \('a'\)"),
        ("regression", (1.0, 2.0), "row 0: not as many values as others have"),
    ],
)
def test_labels_of_another_kind(problem, given, said):
    names = ("value",) if problem == "regression" else ("a", "b")
    with pytest.raises(DataError, match=said):
        labels.judge(reader(names, problem), samples(Labelled(text="t", labels=given)), [{"value": 1.0, "label": "a"}])


def test_tags():
    rows = samples(*(Tagged(words=("x", "y"), tags=some) for some in (("B-P", "I-P"), ("O", "B-P"), ("O", "O"))))
    said = [{"tags": ["B-P", "I-P"]}, {"tags": ["B-P", "O"]}, {"tags": ["O", "O"]}]
    found = tags.judge(reader(("O", "B-P", "I-P")), rows, said)
    assert found.metrics == pytest.approx({"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 4 / 6})
    assert found.values.mean() == pytest.approx(0.5)
    found = tags.judge(reader(("N", "V")), samples(Tagged(words=("x",), tags=("N",))), [{"tags": ["N"]}])
    assert (found.metric, found.value) == ("accuracy", 1.0)


def test_answers_are_found_over_windows():
    context = "Ada wrote it in Rome"
    places = np.array([[-1, -1], [0, 3], [4, 9]]), np.array([[-1, -1], [13, 15], [16, 20]])
    windows = [SimpleNamespace(begins=some[:, 0], ends=some[:, 1]) for some in places]
    logits = [np.array([[1.0, 1.0], [3.0, 1.0], [0.0, 2.5]]), np.array([[0.0, 0.0], [-1.0, -1.0], [4.0, 4.0]])]
    found: Any = reader(max_answer_length=2, version_2_with_negative=False, null_score_diff_threshold=0.0)
    found.lay = lambda names, examples: [SimpleNamespace(windows=windows)]
    found.read = lambda laid: [logits]
    rows = samples(Question(question="Where?", context=context, answers=("Rome", "in Rome"), starts=(16, 13)))
    (told,) = answers.predict(found, rows)
    assert (told["answer"], told["start"], told["end"]) == ("Rome", 16, 20)
    assert [one["answer"] for one in told["n_best"]][:2] == ["Rome", "Ada wrote"]
    assert 0.89 < told["score"] < 0.91
    judged = answers.judge(found, rows, [told])
    assert judged.metrics == {"f1": 1.0, "exact_match": 1.0}
    found.config.version_2_with_negative = True
    logits[0][0] = logits[1][0] = 5.0  # no answer scores 10, the best answer 8
    assert answers.predict(found, rows)[0]["answer"] == ""
    found.config.null_score_diff_threshold = 2.5
    assert answers.predict(found, rows)[0]["answer"] == "Rome"


def test_vectors():
    scored = samples(*(Texts(texts=("a", "b"), grades=(NAN, NAN), score=s) for s in (1.0, 2.0, 3.0)))
    found = vectors.judge(reader(), scored, [{"similarities": [s]} for s in (0.1, 0.2, 0.9)])
    assert found.metrics["spearman"] == pytest.approx(1.0)
    graded = samples(*(Texts(texts=("a", "p", "n"), grades=(NAN, 1.0, 0.0)) for _ in range(2)))
    rows: list[dict[str, Any]] = [
        {"vectors": [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]},
        {"vectors": [[0.0, 1.0], [0.5, 0.5], [0.1, 0.8]]},  # two negatives are nearer than its positive
    ]
    found = vectors.judge(reader(), graded, rows)
    assert found.metrics == pytest.approx({"mrr@10": (1 + 1 / 3) / 2, "accuracy@1": 0.5})
    with pytest.raises(DataError, match="1 of 2 rows with a score"):
        vectors.judge(reader(), [scored[0], graded[0]], rows)


def test_rows_of_files(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("text,label\na film,1\n,0\nanother,0\n", encoding="utf-8")
    found = read_samples(Source(path=str(file)), "labelled")
    assert [sample.example.labels for sample in found.every] == [("1",), ("0",)]
    assert sum(found.refused.values()) == 1
    assert (found.left, read_samples(Source(path=str(file)), "labelled", 1).left) == (False, True)
    bare = bare_samples(str(file), "labelled")
    assert [sample.name.rpartition("/")[2] for sample in bare.every] == ["rows.csv:1", "rows.csv:3"]
    assert [(name.rpartition("/")[2], reason) for name, reason in bare.faults] == [("rows.csv:2", "empty text")]
    assert bare.refused == {"empty text": 1}
    with pytest.raises(DataError, match=r"no row can be used .*columns text, label"):
        bare_samples(str(file), "question")
    with pytest.raises(DataError, match="text 2: empty text"):
        typed_samples(["a", " "], None, "labelled")
    assert typed_samples(["who?"], "a context", "question").every[0].example.context == "a context"
    assert len(typed_samples(["a", "b"], None, "texts").every) == 1
    with pytest.raises(DataError, match="--context"):
        typed_samples(["a"], "b", "tagged")
