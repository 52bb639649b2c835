from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ToyModel, penalties

from llmcli.decoding.beam import Beam
from llmcli.decoding.constrained import Banned, Constraint
from llmcli.decoding.contrastive import Contrastive
from llmcli.decoding.generate import generate
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.mbr import MinimumBayesRisk
from llmcli.decoding.sample import Sample
from llmcli.errors import InputError
from llmcli.tokenizers.byte import ByteTokenizer
from llmcli.tokenizers.char import CharTokenizer
from llmcli.tokenizers.subword import train

GREEDY = Greedy(penalties=penalties())
SAMPLE = Sample(temperature=1.0, top_k=None, top_p=None, min_p=None, typical_p=None, penalties=penalties())
BEAM = Beam(beams=3, n_best=1, length_penalty="gnmt", alpha=1.0, early_stopping=True)
MBR = MinimumBayesRisk(samples=4, n_best=1, sampler=SAMPLE)
BYTES = ByteTokenizer()


@pytest.fixture(scope="module", autouse=True)
def _guidance():
    pytest.importorskip("llguidance")


def texts(constraint, *, strategy=SAMPLE, tokenizer=BYTES, prompts=("x",), count=60, **options):
    model = ToyModel(vocab_size=tokenizer.vocab_size, **options)
    rows = generate(model, tokenizer, prompts, strategy=strategy, max_new_tokens=count, seed=1, constraint=constraint)
    return [(row.text, row.finish_reason) for row in rows]


@pytest.mark.parametrize("strategy", [GREEDY, SAMPLE, BEAM, MBR])
def test_every_strategy_keeps_to_the_rule(strategy):
    prompts = ["a", "bcd", "e f"]
    for text, reason in texts(Constraint(BYTES, choices=["yes", "no", "y.s"]), strategy=strategy, prompts=prompts):
        assert text.strip() in ("yes", "no", "y.s") and reason == "end"
    for text, reason in texts(Constraint(BYTES, pattern=r"[0-9]{2,4}-[a-c]"), strategy=strategy, prompts=prompts):
        assert re.fullmatch(r"[0-9]{2,4}-[a-c]", text) and reason == "end"


def test_json_satisfies_its_schema():
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 9}, "kind": {"enum": ["a", "b"]}},
        "required": ["n", "kind"],
        "additionalProperties": False,
    }
    for text, reason in texts(Constraint(BYTES, schema=schema), prompts=["1", "2", "3"]):
        found = json.loads(text)
        assert 3 <= found["n"] <= 9 and found["kind"] in "ab" and len(found) == 2 and reason == "end"


def test_subword_units_keep_to_the_rule_too():
    tokenizer = train(
        ["the answer is yes, the answer is no, never and ever\n"] * 20, algorithm="bpe", vocab_size=300,
        character_coverage=1.0, max_piece_length=8, sample_characters=10_000, seed=0,
    )  # fmt: skip
    rule = Constraint(tokenizer, choices=["the answer is no"])
    assert [text.strip() for text, _ in texts(rule, tokenizer=tokenizer, prompts=["a", "b"])] == [
        "the answer is no"
    ] * 2


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1, max_size=3), st.integers(0, 5))
def test_banned_texts_never_come_however_they_are_cut(banned, seed):
    pieces = [b"", b"", b"", b"", b"a", b"b", b" ", b"ab", b"ba", b"a b", b"bb", b"c"]
    rule, written, state = Banned(banned, pieces), b"", torch.Generator().manual_seed(seed)
    for _ in range(30):
        allowed = (~rule.after(written[-rule.reach :] if rule.reach else b"")).nonzero()[0]
        for number, piece in enumerate(pieces):
            completes = any(text.encode() in written + piece and text.encode() not in written for text in banned)
            assert (number in allowed) == (not completes)
        written += pieces[int(allowed[torch.randint(len(allowed), (1,), generator=state)])]


def test_banned_texts_stay_out_of_generated_ones():
    letters = CharTokenizer("abcdefgx")
    free, _ = texts(None, strategy=GREEDY, tokenizer=letters, seed=5)[0]
    word = free[3:6]
    without, _ = texts(Constraint(letters, banned=[word]), strategy=GREEDY, tokenizer=letters, seed=5)[0]
    assert len(word) == 3 and word not in without and without.startswith(free[:5])


def test_rows_do_not_depend_on_each_other():
    rule = Constraint(BYTES, pattern="[a-z]{1,9}!")
    both = texts(rule, strategy=GREEDY, prompts=["a", "bcd"])
    assert both == texts(rule, strategy=GREEDY, prompts=["a"]) + texts(rule, strategy=GREEDY, prompts=["bcd"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"choices": ["a"], "pattern": "b"}, "choices, pattern, schema and banned exclude each other"),
        ({"choices": ["a"], "banned": ["b"]}, "choices, pattern, schema and banned exclude each other"),
        ({"choices": []}, "one at least, none of them empty"),
        ({"choices": [""]}, "one at least, none of them empty"),
        ({"banned": [""]}, "an empty text stands everywhere"),
        ({"pattern": "(a"}, "the constraint cannot be used: .*invalid regex.*unclosed group"),
        ({"pattern": "[a&&b]"}, "nothing satisfies it"),
        ({"schema": {"type": "nonsense"}}, "Invalid type: nonsense"),
        ({"schema": {"type": "string", "minLength": 5, "maxLength": 2}}, "Unsatisfiable schema"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(asked, message):
    with pytest.raises(InputError, match=message):
        Constraint(BYTES, **asked)


def test_a_text_longer_than_the_window_is_refused():
    with pytest.raises(InputError, match="8 tokens: 1 of the prompt and 60 new ones are more"):
        texts(Constraint(BYTES, choices=["yes"]), max_seq_len=8)
    assert texts(Constraint(BYTES, choices=["yes"]), max_seq_len=8, count=7)[0][0].strip() == "yes"


def test_contrastive_search_takes_nothing_that_a_rule_forbids():
    probs = torch.tensor([[0.9, 0.1, 0.0]])
    context = torch.tensor([[[1.0, 0.0]]])
    hidden = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0]]])  # the last one, forbidden, is the least alike
    chosen = Contrastive(top_k=3, alpha=1.0).choose(probs, hidden, context, torch.tensor([[True]]))
    assert chosen.item() == 1


def test_a_forced_text_is_written_in_the_tokens_of_the_vocabulary():
    tokenizer = train(
        ["the answer is yes, the answer is no\n"] * 20, algorithm="bpe", vocab_size=300, character_coverage=1.0,
        max_piece_length=8, sample_characters=10_000, seed=0,
    )  # fmt: skip
    writer, ids = Constraint(tokenizer, pattern="the answer is no").writer(), []
    while tokenizer.eos_id not in ids:
        ids.append(int(writer.allowed().nonzero()[0][-1]))  # of what is allowed the last is the longest piece
        writer.take(ids[-1])
    assert tokenizer.decode(ids) == "the answer is no"
    assert len(ids) <= 8  # byte by byte it would be 17


def test_a_vocabulary_that_lacks_a_letter_is_said():
    writer = Constraint(CharTokenizer("1"), pattern="1(9|5)").writer()
    writer.take(16)
    with pytest.raises(InputError, match="the run's vocabulary lacks what the constraint asks for next"):
        writer.allowed()
