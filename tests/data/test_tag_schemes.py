"""Tags of every scheme mean the same spans, and come out as IOB2."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.data.readers.tag_schemes import to_iob2

# Spans that tile a sentence: kind ("" is outside) and length.
sentences = st.lists(st.tuples(st.sampled_from(["", "PER", "B-ig"]), st.integers(1, 4)), max_size=6)


def written(spans, scheme):
    """The tags of a sentence in a scheme."""
    tags, before = [], ""
    for kind, length in spans:
        if not kind:
            tags += ["O"] * length
        elif scheme == "iob1":
            tags += [f"{'B' if before == kind else 'I'}-{kind}", *[f"I-{kind}"] * (length - 1)]
        elif scheme == "iob2":
            tags += [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
        elif length == 1:
            tags.append(f"S-{kind}")
        else:
            inside = "M" if scheme == "bmes" else "I"
            tags += [f"B-{kind}", *[f"{inside}-{kind}"] * (length - 2), f"E-{kind}"]
        before = kind
    return tags


@settings(deadline=None, max_examples=50)
@given(sentences)
def test_every_scheme_comes_out_as_iob2(spans):
    expected = tuple(written(spans, "iob2"))
    for scheme in ("iob1", "iob2", "bioes", "bmes"):
        tags = written(spans, scheme)
        assert to_iob2(tags, scheme) == to_iob2(tags, "auto") == expected
    assert to_iob2(expected, "iob2") == expected


def test_auto_begins_where_nothing_began_and_leaves_other_tags():
    assert to_iob2(["O", "I-A", "I-B", "E-B", "I-B"], "auto") == ("O", "B-A", "B-B", "I-B", "B-B")
    assert to_iob2(["B-A", "L-A", "U-A"], "auto") == ("B-A", "I-A", "B-A")
    assert to_iob2(["NN", "-LRB-", "B"], "auto") == ("NN", "-LRB-", "B")
    assert to_iob2(["B-A", "NN", "I-A"], "none") == ("B-A", "NN", "I-A")


@pytest.mark.parametrize(
    ("scheme", "tags", "message"),
    [
        ("iob2", ["O", "I-A"], "tag 2, I-A, goes on with A where none began"),
        ("iob2", ["B-A", "I-B"], "tag 2, I-B, goes on with B where none began"),
        ("iob2", ["S-A"], "tag 1, S-A: iob2 has no S-"),
        ("iob1", ["NN"], "tag 1, 'NN', is no tag of iob1"),
        ("bioes", ["B-A", "O"], "tag 2, O, comes before the span of A has ended"),
        ("bioes", ["B-A", "B-A"], "tag 2, B-A, comes before the span of A has ended"),
        ("bioes", ["B-A"], "the span of A that stands last has no end"),
        ("bioes", ["E-A"], "tag 1, E-A, goes on with A where none began"),
        ("bmes", ["B-A", "I-A"], "tag 2, I-A: bmes has no I-"),
    ],
)
def test_what_a_scheme_does_not_allow(scheme, tags, message):
    with pytest.raises(ValueError) as raised:
        to_iob2(tags, scheme)
    assert str(raised.value) == message
