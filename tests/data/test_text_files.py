from __future__ import annotations

import gzip
import json

import pytest

from llmcli.errors import InputError


def texts(source, split="train"):
    """Whole documents of a split."""
    found = [""]
    for piece in source.records(split):
        found[-1] += piece.text
        if piece.end:
            found.append("")
    return found[:-1]


def test_a_folder_is_read_in_the_order_of_names_with_its_sub_folders(tmp_path, text_files):
    for name in ("b.txt", "a/z.md", "a/.hidden", ".git/x", "c.text"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name, encoding="utf-8")
    assert texts(text_files(tmp_path)) == ["a/z.md", "b.txt", "c.text"]
    assert texts(text_files(tmp_path / "*.t*")) == ["b.txt", "c.text"]
    assert texts(text_files(tmp_path / "**" / "*.md")) == ["a/z.md"]


def test_what_is_a_document(tmp_path, text_files):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\n \nthree\n", encoding="utf-8")
    assert texts(text_files(path)) == ["one\ntwo\n\n \nthree\n"]
    assert texts(text_files(path, document="line")) == ["one", "two", "three"]
    assert texts(text_files(path, document="paragraph")) == ["one\ntwo", "three"]
    # without an end-of-text token the text keeps what separates its documents
    assert texts(text_files(path, document="line", eos=False)) == ["one\n", "two\n", "three\n"]
    assert texts(text_files(path, document="paragraph", eos=False)) == ["one\ntwo\n\n", "three\n\n"]


def test_json_lines(tmp_path, text_files):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one\\r\\ntwo", "id": 1}\n\n{"id": 2, "text": "three"}\n', encoding="utf-8")
    assert texts(text_files(path)) == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"body": "x", "id": 1}', r'a.jsonl, line 2: no field "text"; the fields are: body, id'),
        ('{"text": 3}', r'a.jsonl, line 2: field "text" must be text, not 3'),
        ('["x"]', r"a.jsonl, line 2: a record must be an object with fields"),
        ('{"text": "x"', r"a.jsonl, line 2: not a JSON record"),
    ],
)
def test_a_bad_record_is_named_by_its_line(tmp_path, text_files, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        texts(text_files(path))


def test_val_and_test_are_the_end_of_the_text(tmp_path, text_files):
    path = tmp_path / "a.txt"
    path.write_text("abcdefghij" * 10, encoding="utf-8")
    source = text_files(path, val_fraction=0.1, test_fraction=0.05)
    assert source.split == "position" and source.splits == ("train", "val", "test")
    assert [len(texts(source, split)[0]) for split in source.splits] == [85, 10, 5]
    assert "".join(texts(source, split)[0] for split in source.splits) == "abcdefghij" * 10


def test_dealing_documents_is_stable_when_files_are_added(tmp_path, text_files):
    def homes():
        source = text_files(tmp_path, split="document", val_fraction=0.2, test_fraction=0.1)
        return {text: split for split in source.splits for text in texts(source, split)}

    for number in range(200):
        (tmp_path / f"{number:03}.txt").write_text(f"document {number}", encoding="utf-8")
    before = homes()
    for number in range(20):
        (tmp_path / f"0-{number}.txt").write_text(f"new {number}", encoding="utf-8")
    after = homes()
    assert len(before) == 200 and len(after) == 220
    assert {text: after[text] for text in before} == before
    shares = [list(before.values()).count(split) / 200 for split in ("val", "test")]
    assert shares == pytest.approx([0.2, 0.1], abs=0.07)


def test_the_seed_deals_anew_and_a_long_document_stays_whole(tmp_path, text_files, monkeypatch):
    path = tmp_path / "a.jsonl"
    records = [f"{number} " + "word " * number for number in range(60)]
    path.write_text("\n".join(json.dumps({"text": text}) for text in records), encoding="utf-8")
    monkeypatch.setattr("llmcli.data.readers.stream.pieces.__defaults__", (50,))

    def split(seed):
        source = text_files(path, val_fraction=0.5, seed=seed)
        train, val = texts(source), texts(source, "val")
        assert sorted(train + val) == sorted(records)
        return val

    assert split(0) == split(0) != split(1)


def test_the_fingerprint_follows_content_and_options_not_place(tmp_path, text_files):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("text", encoding="utf-8")
    two.write_text("text", encoding="utf-8")
    assert text_files(one).fingerprint() == text_files(two).fingerprint()
    assert text_files(one).fingerprint() != text_files(one, document="line").fingerprint()
    two.write_text("tex.", encoding="utf-8")
    assert text_files(one).fingerprint() != text_files(two).fingerprint()


def test_a_path_is_needed_and_its_files_must_be_readable(tmp_path, text_files, monkeypatch):
    with pytest.raises(InputError, match="data=text needs to know which text") as caught:
        text_files(None)
    assert "data.path=FILE" in caught.value.hint
    path = tmp_path / "a.txt"
    path.write_text("text", encoding="utf-8")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read everything
    with pytest.raises(InputError, match=r"a\.txt may not be read by you"):
        text_files(path)


def test_paths_without_text(tmp_path, text_files):
    with pytest.raises(InputError, match=r"there is no file or folder .*nowhere.txt"):
        text_files(tmp_path / "nowhere.txt")
    with pytest.raises(InputError, match=r"no file matches .*\*.txt"):
        text_files(tmp_path / "*.txt")
    with pytest.raises(InputError, match="holds no files to read"):
        text_files(tmp_path)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("document", "word", r"data.document \(word\) must be one of file, line, paragraph"),
        ("split", "random", r"data.split \(random\) must be one of auto, document, position"),
        ("errors", "ignore", r"data.errors \(ignore\) must be one of strict, replace"),
        ("encoding", "utf-99", "there is no encoding called utf-99"),
        ("val_fraction", 1.0, r"data.val_fraction \(1.0\)"),
    ],
)
def test_impossible_options(tmp_path, text_files, option, value, message):
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(InputError, match=message):
        text_files(tmp_path, **{option: value})


def test_the_size_of_a_split_is_told_by_the_files_unless_they_are_compressed(tmp_path, text_files):
    (tmp_path / "a.txt").write_bytes(b"x" * 1000)
    (tmp_path / "b.txt").write_bytes(b"x" * 500)
    source = text_files(tmp_path, val_fraction=0.1, test_fraction=0.2)
    assert [source.size(split) for split in ("train", "val", "test")] == [1050, 150, 300]
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"x"))
    assert text_files(tmp_path).size("train") is None
