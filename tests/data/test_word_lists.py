"""Similarity lists and analogy questions, and what is wrong with those that are none."""

import pytest

from llmcli.data.word_lists import read_analogies, read_similarity
from llmcli.errors import InputError


@pytest.fixture
def listed(tmp_path):
    def write(content):
        path = tmp_path / "list.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_similarity_between_tabs_or_spaces(listed):
    path = listed("\ufefftiger\tcat\t7.35\r\n\n# a remark\nking queen 8\n老虎\t猫\t4.5\nice cream\tsorbet\t9\n")
    assert read_similarity(path) == [
        ("tiger", "cat", 7.35), ("king", "queen", 8.0), ("老虎", "猫", 4.5), ("ice cream", "sorbet", 9.0),
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["tiger cat", "tiger cat much", "tiger cat 7 8", "tiger"])
def test_a_line_that_is_no_pair_is_named(listed, line):
    with pytest.raises(InputError, match=r"list\.txt, line 2: expected two words and a score, got '" + line):
        read_similarity(listed(f"a b 1\n{line}\n"))


def test_analogies_stand_in_sections(listed):
    path = listed("a b c d\n: capital cities\nAthens Greece Oslo Norway\n\n: family\nhe she king queen\n")
    assert read_analogies(path) == {
        "questions": [("a", "b", "c", "d")],
        "capital cities": [("Athens", "Greece", "Oslo", "Norway")],
        "family": [("he", "she", "king", "queen")],
    }


def test_a_line_that_is_no_question_is_named(listed):
    with pytest.raises(InputError, match=r"list\.txt, line 3: expected four words, got 3 in 'a b c'"):
        read_analogies(listed(": one\na b c d\na b c\n"))


@pytest.mark.parametrize(("read", "what"), [(read_similarity, "pairs"), (read_analogies, "questions")])
def test_files_that_hold_nothing_or_no_text(listed, tmp_path, read, what):
    with pytest.raises(InputError, match=f"holds no {what}"):
        read(listed("\n\n"))
    with pytest.raises(InputError, match="is not UTF-8: byte 0xff"):
        read(listed(b"a b 1\n\xff\xfe\n"))
    with pytest.raises(InputError, match=r"cannot read .*nowhere: No such file"):
        read(tmp_path / "nowhere")
