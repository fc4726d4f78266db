# SPDX-License-Identifier: Apache-2.0
"""A recipe written as YAML reads back as itself, whatever text stands in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import RecipeError
from luthier.recipe import load_recipe
from luthier.recipe.text import one_line, parse, read_yaml

TRICKY = [
    "2e-4",
    "1e3",
    "2024-01-01",
    "yes",
    "null",
    "~",
    "a: b",
    "#x",
    "- a",
    "'",
    '"',
    "a\nb",
    "\t",
    " ",
    "é𝄞",
    "[1]",
    "0x1f",
]
words = st.one_of(st.sampled_from(TRICKY), st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
numbers = st.floats(1e-12, 1e6, allow_nan=False)
whole = st.integers(1, 10_000)

recipes = st.fixed_dictionaries(
    {
        "model": st.fixed_dictionaries({"model_name_or_path": words}, optional={"model_revision": words | st.none()}),
        "data": st.fixed_dictionaries(
            {
                "train": st.lists(
                    st.fixed_dictionaries(
                        {"path": words},
                        optional={"weight": numbers, "columns": st.dictionaries(words, words, max_size=2)},
                    ),
                    min_size=1,
                    max_size=3,
                )
            },
            optional={"system": words | st.none(), "chat_template": words, "packing": st.booleans()},
        ),
        "method": st.one_of(
            st.just({"name": "full"}),
            st.fixed_dictionaries(
                {"name": st.just("lora")},
                optional={
                    "r": whole,
                    "lora_alpha": numbers,
                    "target_modules": st.lists(words, max_size=3) | words,
                    "rank_pattern": st.dictionaries(words, whole, max_size=3),
                },
            ),
        ),
    },
    optional={
        "optim": st.fixed_dictionaries({}, optional={"learning_rate": numbers, "adam_epsilon": numbers}),
        "train": st.fixed_dictionaries(
            {}, optional={"num_train_epochs": numbers, "save_total_limit": whole | st.none()}
        ),
        "seed": st.integers(0, 2**32 - 1),
        "output_dir": words,
    },
)


@given(recipes)
def test_recipe_to_yaml_and_back(tmp_path_factory, tree):
    first = load_recipe(tree)
    file = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    file.write_text(first.to_yaml(), encoding="utf-8", newline="\n")
    again = load_recipe(file)
    assert again.recipe == first.recipe
    assert again.fingerprint == first.fingerprint
    assert first.to_yaml().startswith(f"# luthier recipe, fingerprint {first.fingerprint};")


@given(
    st.recursive(
        st.none() | st.booleans() | whole | numbers | words,
        lambda inner: st.lists(inner) | st.dictionaries(words, inner),
    )
)
def test_one_line_is_one_line(value):
    line = one_line(value)
    assert "\n" not in line
    assert parse(f"key: {line}  # where it came from") == {"key": value}


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("train:\n  max_steps: 1\n  max_steps: 2\n")
    with pytest.raises(RecipeError, match=r"the key 'max_steps' stands twice.*line 3"):
        read_yaml(tmp_path / "r.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1\n", "is not YAML"),
        ("- a\n", r"holds \['a'\] \(list\); a mapping of sections"),
        ("", r"holds nothing \(null\)"),
        ("just text", "holds 'just text'"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_files_that_are_no_recipe(tmp_path, content, message):
    (tmp_path / "r.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError, match=message):
        read_yaml(tmp_path / "r.yaml")


def test_a_missing_file_has_a_nearest_name(tmp_path):
    (tmp_path / "sft-lora.yaml").write_text("x: 1")
    with pytest.raises(RecipeError, match=r"no such file; .*did you mean 'sft-lora.yaml'\?"):
        read_yaml(tmp_path / "sft-lroa.yaml")
