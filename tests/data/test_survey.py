"""Every figure of `llm data` is what counting by hand gives, and each warning comes for what it is about."""

import random
from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcli.data import survey as surveys
from llmcli.data.duplicates import Exact, Near
from llmcli.data.flaws import warnings
from llmcli.data.prepare import prepare
from llmcli.data.records import LabeledText, Text
from llmcli.data.source import Source, TextSource
from llmcli.data.survey import distribution, survey
from llmcli.errors import InputError
from llmcli.text.normalize import collapse_whitespace, lowercase
from llmcli.text.scripts import NAMES, share, words
from llmcli.tokenizers import char

ANY = {"drop_leaks": False, "drop_repeats": True, "min_characters": 0}
POLICIES = {"exact": Exact(**ANY), "near": Near(**ANY, threshold=0.7, shingle=3)}


class Made(Source):
    """Records that a test made."""

    record = LabeledText

    def __init__(self, **splits):
        self.made = splits
        self.record = type(splits["train"][0])

    @property
    def splits(self):
        return tuple(self.made)

    def fingerprint(self):
        return {"reader": "made", "records": repr(self.made)}

    def records(self, split):
        return iter(self.made[split])

    def describe(self):
        return "made up"


class MadeText(Made, TextSource):
    def __init__(self, **splits):
        Made.__init__(self, **splits)
        self.eos = True


def facts_of(source, tmp_path, clean=None, tokenizer=None, **changes):
    tokenizer = tokenizer or partial(char.train, min_frequency=1)
    prepared = prepare(source, clean=clean, tokenizer=tokenizer, tokenizer_key={}, cache_dir=tmp_path / "made")
    settings = {"context": None, "sample": 1000, "compare": 1000, "seed": 1, "report": lambda *_: None, **changes}
    return survey(source, prepared, clean=clean or {}, policies=POLICIES, **settings), prepared


def reviews(number, seed, alphabet="abcdé"):
    rng = random.Random(seed)
    texts = ["".join(rng.choices(f"{alphabet}  \n", k=rng.randint(1, 60))) for _ in range(number)]
    return [LabeledText(f"{text}!", (rng.choice(["good", "good", "bad"]),)) for text in texts]


def test_counts_of_examples(tmp_path):
    made = {"train": reviews(150, 1), "val": reviews(40, 2, "abcdé中文xyz")}
    made["val"] += [made["train"][3], LabeledText(" " + made["train"][7].text, ("bad",))]
    made["train"] += [made["train"][5], made["train"][5]]
    facts, prepared = facts_of(Made(**made), tmp_path, context=30)
    tokenizer = prepared.tokenizer
    bare = {split: ["".join(each.text.split()) for each in some] for split, some in made.items()}
    for split, records in made.items():
        texts, found = [each.text for each in records], facts["splits"][split]
        ids = [tokenizer.encode(text) for text in texts]
        assert found["documents"] == found["read"]["documents"] == len(records)
        assert found["tokens"] == sum(map(len, ids))
        assert found["characters"] == found["read"]["characters"] == sum(map(len, texts))
        assert found["bytes"] == sum(len(text.encode()) for text in texts)
        assert found["unknown"] == sum(row.count(tokenizer.unk_id) for row in ids)
        assert found["labels"] == Counter(each.labels[0] for each in records)
        assert found["over_context"] == sum(len(row) > 30 for row in ids)
        for lengths, name in ((ids, "token_lengths"), (texts, "character_lengths")):
            lengths = sorted(map(len, lengths))
            spread = found["read"][name] if name in found["read"] else found[name]
            assert (spread["min"], spread["max"]) == (lengths[0], lengths[-1])
            assert spread["median"] == lengths[(len(lengths) - 1) // 2]
            assert spread["mean"] == pytest.approx(sum(lengths) / len(lengths), abs=0.005)
            edges = spread["edges"]
            expected = [sum(edges[i] <= n < edges[i + 1] for n in lengths) for i in range(len(edges) - 1)]
            assert spread["counts"] == expected and sum(expected) == len(lengths)
        sample = found["sample"]
        assert sample["records"] == len(records)
        assert sample["tokens_per_word"] == pytest.approx(sum(map(len, ids)) / sum(len(words(t)) for t in texts), 1e-3)
        letters = [letter for text in texts for letter in text if letter.isalpha()]
        expected = Counter(next(name for name in NAMES if share(letter, (name,))) for letter in letters)
        assert sample["scripts"] == expected
    unknown = Counter(unit for records in made.values() for each in records for unit in tokenizer.unknown(each.text))
    assert facts["unknown"] == unknown and set(unknown) == set("中文xyz")
    exact = facts["copies"]["exact"]
    assert exact["seen"]["val"] == sum(text in set(bare["train"]) for text in bare["val"])
    assert exact["leaks"]["val"] == sum(text in set(bare["val"]) for text in bare["train"])
    assert exact["repeats"] == len(bare["train"]) - len(set(bare["train"]))
    assert exact["compared"] == {"train": 152, "val": 42}


def test_counts_of_running_text_do_not_depend_on_its_pieces(tmp_path):
    rng = random.Random(4)
    texts = [" ".join(rng.choices(["one", "two", "three\n"], k=rng.randint(1, 900))) for _ in range(60)]
    cut = [
        Text(text[i : i + 500], end=i + 500 >= len(text))
        for text in texts
        for i in range(0, len(text), 500)
        if text[i:]
    ]
    found = [
        facts_of(MadeText(train=train, val=[Text(texts[0])]), tmp_path)[0]
        for train in ([Text(text) for text in texts], cut)
    ]
    for name in ("token_lengths", "documents", "tokens", "characters"):
        assert found[0]["splits"]["train"][name] == found[1]["splits"]["train"][name]
    read = [each["splits"]["train"]["read"] for each in found]
    assert read[0] == read[1]
    assert read[0]["character_lengths"]["max"] == max(map(len, texts))
    assert found[0]["copies"]["exact"] == found[1]["copies"]["exact"]
    assert found[0]["splits"]["train"]["token_lengths"]["max"] == max(map(len, texts)) + 1  # the end-of-text token
    assert found[0]["splits"]["train"]["sample"]["records"] > 60, "long documents are looked at in passages"


def test_each_cleaning_step_shows_what_it_does_to_what_the_one_before_left(tmp_path):
    def no_digits(text):
        return None if any(each.isdigit() for each in text) else text

    made = [LabeledText(f"Text  {'A' * (i % 3)}", ("x",)) for i in range(30)] + [LabeledText("No. 7", ("x",))] * 4
    steps = {
        "whitespace": partial(collapse_whitespace, max_newlines=1, keep_indent=False),
        "digits": no_digits,
        "lowercase": lowercase,
    }
    facts, _ = facts_of(Made(train=made), tmp_path, clean=steps)
    counts = [(each["step"], each["records"], each["changed"], each["dropped"]) for each in facts["cleaning"]]
    assert counts == [("whitespace", 34, 30, 0), ("digits", 34, 0, 4), ("lowercase", 30, 30, 0)]
    space, digits, lower = (each["examples"] for each in facts["cleaning"])
    assert all("  " in each["before"] and "  " not in each["after"] for each in space)
    assert digits[0] == {"before": "No. 7", "after": None}
    assert all(each["after"] == each["before"].lower() != each["before"] for each in lower)
    assert facts["splits"]["train"]["documents"] == 30 and facts["splits"]["train"]["read"]["documents"] == 34
    assert all(text == text.lower() for text in facts["examples"]["train"])


def test_a_large_split_is_looked_at_in_part_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(surveys, "READ", 1000)
    made = [LabeledText(f"text number {i}", ("x",)) for i in range(300)]
    source = Made(train=made, val=made[:5])
    facts, _ = facts_of(source, tmp_path, sample=20, compare=50)
    read = facts["splits"]["train"]["read"]
    assert not read["whole"] and 1000 <= read["characters"] < 1100
    assert facts["splits"]["train"]["documents"] == 300
    assert facts["splits"]["train"]["sample"]["records"] == 20
    assert facts["copies"]["exact"]["compared"] == {"train": 50, "val": 5}
    again, other = facts_of(source, tmp_path, sample=20)[0], facts_of(source, tmp_path, sample=20, seed=2)[0]
    assert again["examples"] == facts["examples"] != other["examples"]
    with pytest.raises(InputError, match=r"sample \(0\) must be at least 1"):
        facts_of(source, tmp_path, sample=0)


def test_the_sample_is_of_its_size_and_takes_from_everywhere():
    source = Made(train=[LabeledText(str(i), ("x",)) for i in range(40)])
    drawn = Counter()
    for seed in range(400):
        sample = surveys._read(source, "train", 10, seed, lambda *_: None)["drawn"]
        assert len({each.text for each in sample}) == 10
        drawn.update(each.text for each in sample)
    assert len(drawn) == 40 and 60 < min(drawn.values()) <= max(drawn.values()) < 145  # 100 each, sd 8.7


@given(st.lists(st.integers(0, 5000), min_size=1))
def test_every_length_has_its_bin(lengths):
    found = distribution(lengths)
    edges = found["edges"]
    assert edges == sorted(set(edges)) and edges[0] == min(lengths) and edges[-1] == max(lengths) + 1
    assert found["counts"] == [sum(edges[i] <= n < edges[i + 1] for n in lengths) for i in range(len(edges) - 1)]
    assert found["min"] <= found["p5"] <= found["median"] <= found["p95"] <= found["max"]
    assert distribution([]) is None


# -- warnings ------------------------------------------------------------------------------------------------------


def said(facts):
    return " | ".join(each["what"] for each in facts["warnings"])


good = [LabeledText(f"some text held {i} {'or more ' * (i % 7)}", ("a" if i % 2 else "b",)) for i in range(400)]
val = [LabeledText(f"text held {i} {'or less ' * (i % 5)}", ("a" if i % 2 else "b",)) for i in range(120)]


def test_healthy_data_has_no_warnings(tmp_path):
    assert said(facts_of(Made(train=good, val=val), tmp_path)[0]) == ""


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        ({"train": good}, "there is no val split"),
        ({"train": good, "val": val[:30]}, "val has only 30 examples: its score is mostly chance"),
        ({"train": val, "val": good}, "val is larger than train"),
        ({"train": [*good, *val[:9]], "val": val}, "9 of 120 in val stand in train too"),
        ({"train": [*good, *good[:50]], "val": val}, "50 of 450 in train repeat another"),
        (
            {"train": [LabeledText(each.text, ("a",)) for each in good[:100]], "val": val[1::2] * 2},
            "every label is 'a': there is nothing to learn",
        ),
        (
            {"train": [*good, *(LabeledText(f"more {i}", ("a",)) for i in range(3000))], "val": val},
            "94% of the labels are 'a'",
        ),
        ({"train": [*good, LabeledText("x", ("c",))], "val": val}, "'a' stands 200 times as often as 'c' (1)"),
        ({"train": [*good, LabeledText("x", ("c",))], "val": val}, "1 labels have fewer than 10 examples, such as 'c'"),
        ({"train": [*good, LabeledText(" ", ("a",))], "val": val}, "1 texts of train are empty"),
        (
            {"train": [*good, *(LabeledText("ж" * 9, ("a",)) for _ in range(3))], "val": val},
            "of the letters of train are Cyrillic, the most are Latin",
        ),
        ({"train": good, "val": [LabeledText(f"中文 {i}", ("a",)) for i in range(150)]}, "of val are unknown"),
        (
            {"train": [LabeledText(f"{i:9}", ("a",)) for i in range(200)], "val": val[1::2] * 2},
            "nearly every text of train has 9",
        ),
    ],
)
def test_what_would_spoil_a_run_is_said(splits, expected, tmp_path):
    assert expected in said(facts_of(Made(**splits), tmp_path)[0])


def test_texts_over_the_context(tmp_path):
    facts, _ = facts_of(Made(train=good, val=val), tmp_path, context=30)
    over = sum(len(each.text) > 30 for each in good) / len(good)
    assert f"{over:.0%} of train is longer than the context of 30 tokens" in said(facts)


def test_leaks_that_were_dropped_and_near_copies(tmp_path):
    close = [LabeledText(f"{' '.join(map(str, range(i, i + 90)))} end {i}", ("a",)) for i in range(0, 9000, 90)]
    moved = [LabeledText(each.text.replace("end", "stop"), ("a",)) for each in close[:5]]
    facts, _ = facts_of(Made(train=[*good, *close], val=[*val, *moved]), tmp_path)
    assert "5 of 125 in val nearly stand in train too" in said(facts)
    leaking = facts_of(Made(train=[*good, val[0]], val=val), tmp_path)[0]
    assert "stand in train too" in said(leaking)
    assert not any("stand in train too" in each["what"] for each in warnings({**leaking, "dropped": 1}))


def test_a_step_that_drops_much(tmp_path):
    facts, _ = facts_of(Made(train=good, val=val), tmp_path, clean={"even": lambda text: None if "1" in text else text})
    assert "clean.even drops" in said(facts)
