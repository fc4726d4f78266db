# SPDX-License-Identifier: Apache-2.0
"""From a path to the files that are read, and what is said where there is none."""

from __future__ import annotations

import json
import shutil

import pytest

from luthier.core.errors import DataError, RecipeError
from luthier.data.faults import RowFault
from luthier.data.readers import hub
from luthier.data.source import locate
from luthier.recipe.schema import Source

ROW = {"instruction": "a", "output": "b"}


@pytest.fixture
def found(said):
    """Locate a source and read its rows."""

    def _found(path, which: str = "train", **keys):
        parts = locate(Source(path=str(path), **keys), which, said.append)
        return [(part.label, number, row) for part in parts for number, row in part.rows()]

    return _found


def put(folder, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")


def line(text: str) -> str:
    return json.dumps({"text": text}) + "\n"


def test_a_shipped_set(found):
    rows = found("embedded:train")
    assert len(rows) == 4000
    assert rows[0][:2] == ("embedded:train", 1)
    assert {"instruction", "output"} <= set(rows[0][2])
    with pytest.raises(RecipeError, match=r"data 'embedded:trian': no such shipped set; did you mean 'train'"):
        found("embedded:trian")


@pytest.mark.parametrize(
    ("name", "content", "as_what"),
    [
        ("rows.json", json.dumps([ROW, ROW]), None),
        ("rows.json", json.dumps([ROW, ROW], indent=2), None),
        ("rows.jsonl", f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n", None),
        ("rows.json", f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n", "JSON Lines"),
        ("rows.jsonl", json.dumps([ROW, ROW], indent=2), "one JSON array"),
        ("rows.jsonl", json.dumps([ROW, ROW]), "one JSON array"),
        ("rows.json", f"\n\n{json.dumps(ROW)}\n{json.dumps(ROW)}", "JSON Lines"),
    ],
)
def test_the_content_tells_arrays_from_lines(tmp_path, found, said, name, content, as_what):
    (tmp_path / name).write_text(content)
    assert [row for _, _, row in found(tmp_path / name)] == [ROW, ROW]
    assert len(said) == (as_what is not None)
    assert all(as_what in text for text in said)


def test_bare_message_lists_are_rows(tmp_path, found):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "one.jsonl").write_text(json.dumps(chat))
    (tmp_path / "two.json").write_text(json.dumps(chat) + "\n" + json.dumps(chat))
    assert [row for _, _, row in found(tmp_path / "one.jsonl")] == [{"messages": chat}]
    assert [row for _, _, row in found(tmp_path / "two.json")] == [{"messages": chat}] * 2


def test_one_row_in_a_json_file(tmp_path, found):
    (tmp_path / "one.json").write_text(json.dumps({"messages": [{"role": "user", "content": "a"}]}))
    assert len(found(tmp_path / "one.json")) == 1


def test_a_broken_first_line_is_a_fault_of_that_row(tmp_path, found):
    (tmp_path / "rows.jsonl").write_text('{"text": \n' + line("b"))
    first, second = found(tmp_path / "rows.jsonl")
    assert isinstance(first[2], RowFault)
    assert second[1:] == (2, {"text": "b"})


@pytest.mark.parametrize("content", ['{"data": [{"a": 1}, {"a": 2}]}', '{\n "data": [\n{"a": 1},\n{"a": 2}]}'])
def test_rows_inside_an_object(tmp_path, found, content):
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(DataError, match=r"holds one JSON object; an array of rows.*jq -c '\.(data|KEY)\[\]'"):
        found(tmp_path / "rows.json")


def test_a_missing_file_names_the_nearest(tmp_path, found):
    put(tmp_path, **{"alpaca.json": "[]"})
    with pytest.raises(DataError, match=r"alpca\.json: no such file or folder; did you mean 'alpaca\.json'\?"):
        found(tmp_path / "alpca.json")
    with pytest.raises(DataError, match=r"the folder '.*nowhere' is not there either"):
        found(tmp_path / "nowhere" / "alpaca.json")


def test_an_empty_file(tmp_path, found):
    put(tmp_path, **{"rows.jsonl": "", "space.json": " \n \n"})
    with pytest.raises(DataError, match=r"rows\.jsonl: the file is empty; give a file with rows"):
        found(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="nothing but white space"):
        found(tmp_path / "space.json")


def test_a_wrong_suffix(tmp_path, found):
    put(tmp_path, **{"rows.xlsx": "x"})
    with pytest.raises(DataError, match=r"the suffix '\.xlsx'; \.jsonl, .*; rename or convert the file"):
        found(tmp_path / "rows.xlsx")


def test_a_parquet_file_with_another_name(tmp_path, found):
    put(tmp_path, **{"rows.jsonl": "PAR1xxxx"})
    with pytest.raises(DataError, match=r"is a Parquet file; .*; rename it to \.parquet"):
        found(tmp_path / "rows.jsonl")


def test_a_split_of_a_file(tmp_path, found):
    put(tmp_path, **{"rows.jsonl": line("a")})
    with pytest.raises(DataError, match="split 'test' of a single file; a file has no splits; remove split:"):
        found(tmp_path / "rows.jsonl", split="test")


def test_a_configuration_is_the_hubs(tmp_path, found):
    put(tmp_path, **{"rows.jsonl": line("x")})
    for path, what in ((tmp_path / "rows.jsonl", "a file"), (tmp_path, "a folder")):
        with pytest.raises(DataError, match=f"config 'en' of {what}; hub data sets have them; remove config:"):
            found(path, config="en")


def test_a_configuration_of_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    configs = "".join(f"  - {{config_name: {name}, data_files: {name}.jsonl}}\n" for name in ("de", "en"))
    put(tmp_path, **{"README.md": f"---\nconfigs:\n{configs}---\n", "de.jsonl": line("ja"), "en.jsonl": line("yes")})
    dataset = hub.from_hub(str(tmp_path), "rows", "train", "en")
    assert [row["text"] for _, row in hub.rows(dataset)] == ["yes"]


def test_a_folder_of_splits(tmp_path, found, said):
    put(tmp_path, **{"train.jsonl": line("a"), "test.jsonl": line("b"), "README.md": "words"})
    assert found(tmp_path) == [(f"{tmp_path}/train.jsonl", 1, {"text": "a"})]
    assert found(tmp_path, which="eval") == [(f"{tmp_path}/test.jsonl", 1, {"text": "b"})]
    assert "reading train.jsonl for split 'train'" in said[0]
    with pytest.raises(DataError, match=r"no file for split 'valid'; the folder holds test\.jsonl, train\.jsonl"):
        found(tmp_path, split="valid")


def test_a_folder_like_the_hubs(tmp_path, found):
    put(tmp_path, **{"data__train-00001-of-00002.jsonl": line("b"), "data__train-00000-of-00002.jsonl": line("a")})
    put(tmp_path, **{"data__test-00000-of-00001.jsonl": line("c")})
    assert [row["text"] for _, _, row in found(tmp_path)] == ["a", "b"]


def test_a_folder_of_folders(tmp_path, found):
    put(tmp_path, **{"train__x.jsonl": line("a"), "valid__x.jsonl": line("b")})
    assert [row["text"] for _, _, row in found(tmp_path, split="valid")] == ["b"]


def test_a_folder_without_splits_is_read_whole(tmp_path, found, said):
    put(tmp_path, **{"b.jsonl": line("b"), "a.jsonl": line("a")})
    assert [row["text"] for _, _, row in found(tmp_path)] == ["a", "b"]
    assert "reading 2 files" in said[0]


def test_a_folder_of_two_kinds(tmp_path, found):
    put(tmp_path, **{"train.jsonl": line("b"), "train.csv": "text\na\n"})
    with pytest.raises(DataError, match=r"several kinds of files for split 'train': train\.csv, train\.jsonl"):
        found(tmp_path)


def test_a_folder_without_data(tmp_path, found):
    put(tmp_path / "empty")
    with pytest.raises(DataError, match="a folder without a data file"):
        found(tmp_path / "empty")


def test_a_hub_name_offline(found, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match=r"nobody/nothing: no such file or folder, .*HF_HUB_OFFLINE forbids"):
        found("nobody/nothing")


def test_save_to_disk(tmp_path, found):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"text": str(i)} for i in range(3)])
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=rows, test=rows.select([1])).save_to_disk(tmp_path / "many")
    assert [row for _, _, row in found(tmp_path / "one")] == [{"text": str(i)} for i in range(3)]
    assert found(tmp_path / "many", which="eval") == [(f"{tmp_path}/many:test", 1, {"text": "1"})]
    with pytest.raises(DataError, match=r"has no split 'valid'; .*Known: test, train"):
        found(tmp_path / "many", split="valid")
    shutil.rmtree(tmp_path / "one")


def test_digests_follow_the_content(tmp_path):
    file = tmp_path / "a.jsonl"
    digests = []
    for text in ("a", "b", "a"):
        file.write_text(line(text))
        digests.append(locate(Source(path=str(file)), "train", print)[0].digest())
    assert digests[0] == digests[2] != digests[1]
