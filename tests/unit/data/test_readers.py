# SPDX-License-Identifier: Apache-2.0
"""Files of rows, whole and broken."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.core.errors import DataError
from luthier.data.faults import RowFault
from luthier.data.readers import array
from luthier.data.readers.array import json_array
from luthier.data.readers.encoding import guess
from luthier.data.readers.lines import json_lines, text_lines
from luthier.data.readers.table import delimited, parquet


@pytest.fixture
def put(tmp_path):
    def _put(content: str | bytes, name: str = "file"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return _put


def told(reader, file) -> list[tuple[int, object]]:
    """Read all rows, faults as text."""
    return [(number, str(row) if isinstance(row, RowFault) else row) for number, row in reader(file, "file")]


def test_json_lines_number_the_lines_of_the_file(put):
    file = put('{"a": 1}\n\n   \n{"a": 2}\r\n{"a": 3}')
    assert told(json_lines, file) == [(1, {"a": 1}), (4, {"a": 2}), (5, {"a": 3})]


def test_a_broken_line_is_a_fault_of_that_row(put):
    file = put('{"a": 1}\n{"a": \n{"a": 3}\n7\n')
    assert told(json_lines, file) == [
        (1, {"a": 1}),
        (2, "not JSON (Expecting value at column 7)"),
        (3, {"a": 3}),
        (4, "a row is not an object (a number)"),
    ]


def test_bare_lists_and_strings_get_a_column(put):
    file = put('[{"role": "user"}]\n"hello"\n')
    assert told(json_lines, file) == [(1, {"messages": [{"role": "user"}]}), (2, {"text": "hello"})]


def test_deep_nesting_is_a_fault(put):
    assert told(json_lines, put("[" * 100_000 + "\n")) == [(1, "nested too deeply to be read")]


def test_a_byte_that_is_not_utf8_is_named(put):
    file = put(b'{"a": "good"}\n{"a": "' + "你好世界".encode("gbk") + b'"}\n{"a": 3}\n')
    rows = told(json_lines, file)
    assert rows[1] == (2, "not UTF-8 (byte 21 of the file; looks like GB18030)")
    assert [rows[0][1], rows[2][1]] == [{"a": "good"}, {"a": 3}]


@pytest.mark.parametrize("reader", [json_lines, json_array, text_lines, delimited])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_wide_encodings_are_named(put, reader, encoding):
    file = put('[{"a": "hello"}]\n'.encode(encoding))
    with pytest.raises(DataError, match=r"^file: (byte order mark|zero byte) at byte \d; looks like UTF-(16|32)"):
        told(reader, file)


@pytest.mark.parametrize("reader", [json_lines, json_array, text_lines, delimited])
def test_a_byte_order_mark_is_skipped(put, reader):
    content = {json_lines: '{"a": "1"}', json_array: '[{"a": "1"}]', text_lines: "1", delimited: "a\n1"}[reader]
    row = told(reader, put(b"\xef\xbb\xbf" + content.encode()))
    assert row == [(1, {"text": "1"} if reader is text_lines else {"a": "1"})]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PAR1....", "a Parquet file"),
        (b"\x1f\x8b....", "a gzip file"),
        (b"PK\x03\x04..", "a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_other_kinds_of_files_are_named(put, content, said):
    with pytest.raises(DataError, match=said):
        told(json_lines, put(content))


@pytest.mark.parametrize(
    ("text", "encoding", "guessed"),
    [
        ("今天天气怎么样？很好。", "gbk", "GB18030"),
        ("la réponse est prête à Besançon", "latin-1", "WINDOWS-1252"),
        ("“quoted”", "cp1252", "WINDOWS-1252"),
        ("plain", "utf-16-be", "UTF-16BE"),
    ],
)
def test_guesses(text, encoding, guessed):
    assert guess(text.encode(encoding)) == guessed


def test_gzip(tmp_path):
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"a": 1}\n'))
    assert told(json_lines, file) == [(1, {"a": 1})]


def test_text_lines_keep_their_spaces(put):
    assert told(text_lines, put("  one \n\ntwo\r\n")) == [(1, {"text": "  one "}), (3, {"text": "two"})]


WORDS = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)


@given(
    rows=st.lists(st.dictionaries(WORDS, JSON, max_size=4)),
    indent=st.none() | st.integers(0, 2),
    chunk=st.integers(1, 9),
)
def test_any_array_is_read_in_any_chunks(tmp_path_factory, rows, indent, chunk):
    file = tmp_path_factory.mktemp("arrays") / "rows.json"
    file.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(array, "CHUNK", chunk)
        assert told(json_array, file) == list(enumerate(rows, 1))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[\n{"a": 1},\n{"a": 2,}\n]', r"line 3, column \d+: .* in row 2"),
        ('[\n{"a": 1}\n{"a": 2}]', "line 3, column 1: expecting ',' after row 1"),
        ('[\n{"a": 1},\n{"a": "x', "line 3, column 7: unterminated string"),
        ('[\n{"a": 1},\n', "line 3, column 1: the file ends too early"),
        ('[{"a": 1}', "the file ends too early: expecting ',' after row 1"),
        ('[{"a": 1},]', "expecting value in row 2"),
        ('[{"a": 1}] {"a": 2}', "there is more after the array"),
        ('{"a": 1}', "expecting '\\['"),
    ],
)
def test_a_broken_array_names_line_and_column(put, content, said):
    with pytest.raises(DataError, match=said) as caught:
        told(json_array, put(content))
    assert "mend the file at this place" in str(caught.value)


def test_a_bad_byte_in_an_array_is_named(put):
    with pytest.raises(DataError, match=r"no UTF-8 at byte 7; looks like WINDOWS-1252") as caught:
        told(json_array, put('[{"a":"é"}]'.encode("latin-1")))
    assert "iconv -f WINDOWS-1252 -t UTF-8" in str(caught.value)


def test_an_array_is_not_held_in_memory(put):
    row = json.dumps({"a": "x" * 1000})
    file = put("[" + ",\n".join([row] * 12_000) + "]")  # 12 MB
    tracemalloc.start()
    assert sum(1 for _ in json_array(file, "file")) == 12_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * array.CHUNK  # bytes, the chunk and the text: 3.2 MB measured


def test_a_row_longer_than_many_chunks(put, monkeypatch):
    monkeypatch.setattr(array, "CHUNK", 64)
    rows = [{"a": "y" * 10_000}, {"a": 1}]
    assert told(json_array, put(json.dumps(rows))) == [(1, rows[0]), (2, rows[1])]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv(put, separator):
    lines = ["question", "answer"], ['"a, ""b""\nc; d"', "e\tf" if separator != "\t" else "e f"]
    file = put("\n".join(separator.join(fields) for fields in lines), "rows.csv")
    assert told(delimited, file) == [(1, {"question": 'a, "b"\nc; d', "answer": lines[1][1]})]


def test_tsv(put):
    assert told(delimited, put("a\tb\n1, 2\t3\n", "rows.tsv")) == [(1, {"a": "1, 2", "b": "3"})]


def test_csv_rows_of_another_width_are_faults(put):
    file = put("a,b\n1,2\n3\n4,5,6\n\n7,8\n")
    assert told(delimited, file) == [
        (1, {"a": "1", "b": "2"}),
        (2, "not as many fields as the header (1 for 2)"),
        (3, "not as many fields as the header (3 for 2)"),
        (4, {"a": "7", "b": "8"}),
    ]


def test_csv_with_a_long_field(put):
    assert len(told(delimited, put('a,b\n1,"' + "x" * 200_000 + '"\n'))[0][1]["b"]) == 200_000


def test_csv_with_an_open_quote(put):
    with pytest.raises(DataError, match=r"file, line 3: unexpected end of data"):
        told(delimited, put('a,b\n1,2\n3,"4'))


def test_csv_in_another_encoding(put):
    with pytest.raises(DataError, match=r"no UTF-8 at byte 9; looks like GB18030"):
        told(delimited, put(b"a,b\nfirst" + "，第一个问题\n".encode("gbk")))


def test_parquet(tmp_path):
    import pyarrow as pa
    from pyarrow import parquet as pq

    file = tmp_path / "rows.parquet"
    rows = [{"messages": [{"role": "user", "content": str(i)}]} for i in range(1500)]
    pq.write_table(pa.Table.from_pylist(rows), file)
    assert told(parquet, file) == list(enumerate(rows, 1))


def test_broken_parquet(put):
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        told(parquet, put(b"PAR1 no more"))


def test_lines_of_random_bytes_never_raise(put):
    random.seed(1)
    file = put(bytes(random.randrange(1, 256) for _ in range(4000)))
    assert all("not UTF-8" in row or "not JSON" in row or "row is" in row for _, row in told(json_lines, file))
