"""Examples made by translators: once, after the source's own, by runs named on the command line."""

from __future__ import annotations

import json
from itertools import permutations

import pytest

from llmcli.data import translated
from llmcli.data.cache import cache_root
from llmcli.data.dealing import DealtRecords
from llmcli.data.records import LabeledText, TextPair
from llmcli.data.translated import with_reworded, with_synthetic_pairs
from llmcli.errors import InputError


class Held(DealtRecords):
    def __init__(self, record, **splits):
        settings = {"val_fraction": 0.0, "test_fraction": 0.0, "stratify": False, "seed": 0}
        super().__init__(**settings, flaws="error", unseen_labels="error")
        self.record, self.lists = record, splits

    @property
    def own_splits(self):
        return tuple(self.lists)

    def read(self, own_split):
        return iter(self.lists[own_split])

    def fingerprint(self):
        return {"lists": {split: [str(each) for each in listed] for split, listed in self.lists.items()}}

    def describe(self):
        return "lists"


def shout(texts):
    return [text.upper() for text in texts]


def tail(texts):
    return [f"{text}!" for text in texts]


def silent(stage, done, total):
    pass


def texts(n):
    return [LabeledText(f"text {i}", (str(i % 2),)) for i in range(n)]


def test_train_has_its_own_examples_and_then_each_in_other_words():
    source = Held(LabeledText, train=texts(2), val=texts(1))
    both = with_reworded(source, there=shout, back=tail, key=["a", "b"])
    both.obtain(silent)
    assert list(both.records("train")) == [*texts(2), LabeledText("TEXT 0!", ("0",)), LabeledText("TEXT 1!", ("1",))]
    assert list(both.records("val")) == texts(1) and both.splits == ("train", "val")


def test_it_is_made_once_for_the_same_data_and_runs():
    calls = []

    def counted(texts):
        calls.append(len(texts))
        return shout(texts)

    for key in (["a", "b"], ["a", "b"], ["a", "c"]):
        with_reworded(Held(LabeledText, train=texts(3)), there=counted, back=tail, key=key).obtain(silent)
    assert calls == [3, 3]  # the second time another run


def test_what_was_stopped_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(translated, "AT_ONCE", 2)
    calls = []

    def stopped(texts):
        calls.append(texts[0])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return shout(texts)

    source = Held(LabeledText, train=texts(5))
    with pytest.raises(KeyboardInterrupt):
        with_reworded(source, there=stopped, back=tail, key=["a", "b"]).obtain(silent)
    again = with_reworded(source, there=stopped, back=tail, key=["a", "b"])
    part = next(again._path().parent.glob("*.part"))
    part.write_bytes(part.read_bytes() + b'[2, [["half a li')  # what a process that is killed may leave
    again.obtain(silent)
    assert calls == ["text 0", "text 2", "text 2", "text 4"]
    assert [record.text for record in again.records("train")][5:] == [f"TEXT {n}!" for n in range(5)]
    assert not list(again._path().parent.glob("*.part"))


def test_sources_for_the_lines_of_a_file(tmp_path):
    (tmp_path / "targets.txt").write_text("big dog\n\n small cat \n", encoding="utf-8")
    own = Held(TextPair, train=[TextPair("a", "b")])
    both = with_synthetic_pairs(own, targets=tmp_path / "targets.txt", translate=shout, key="run")
    both.obtain(silent)
    assert list(both.records("train")) == [
        TextPair("a", "b"),
        TextPair("BIG DOG", "big dog"),
        TextPair("SMALL CAT", "small cat"),
    ]
    before = both.fingerprint()
    (tmp_path / "targets.txt").write_text("other", encoding="utf-8")
    assert (
        with_synthetic_pairs(own, targets=tmp_path / "targets.txt", translate=shout, key="run").fingerprint() != before
    )


def test_what_cannot_be_done_is_said(tmp_path):
    with pytest.raises(InputError, match=r"pairs of texts; this is LabeledText"):
        with_synthetic_pairs(Held(LabeledText, train=[]), targets=tmp_path, translate=shout, key="run")
    with pytest.raises(InputError, match=r"there is no file"):
        with_synthetic_pairs(Held(TextPair, train=[]), targets=tmp_path / "no", translate=shout, key="run")


WORDS = ["".join(letters) for letters in permutations("abcd")][:20]
ROWS = "text,label\n" + "".join(f"{word},{'ab'[n % 2]}\n" for n, word in enumerate(WORDS))


def test_two_runs_reword_the_training_texts_from_the_command_line(llm, tmp_path):
    pairs = ["data=reverse_copy", "data.train=200", "data.letters=6", "data.shortest=2", "data.longest=4"]
    small = ["model=seq2seq_transformer", "model.d_model=16", "model.n_encoder_layers=1", "model.n_decoder_layers=1"]
    turned = tmp_path / "turned"
    learnt = llm("train", *pairs, *small, "trainer.max_steps=2", "decoding=greedy", f"hydra.run.dir={turned}")
    assert learnt.code == 0, learnt.err
    (tmp_path / "rows.csv").write_text(ROWS, encoding="utf-8")
    rows = ["data=labeled_text", f"data.path={tmp_path / 'rows.csv'}", "tokenizer=byte", "data.val_fraction=0.2"]
    by = f"prepare.reworded_by=[{turned},{turned}]"
    run = tmp_path / "classes"
    classes = ["model=dan", "model.d_model=4", "model.rows=10", "trainer.max_steps=1", f"hydra.run.dir={run}"]
    done = llm("train", *rows, by, *classes)
    assert done.code == 0, done.err
    files = (cache_root() / "translated").glob("*.jsonl")
    made = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert sum(count for count, _ in made) == 16  # all of train, nothing of val
    # a run is whole: it is scored where its translators are no more
    turned.rename(tmp_path / "elsewhere")
    scored = llm("eval", f"ckpt={run}", "--json")
    assert scored.code == 0, scored.err
    assert llm("train", f"resume={run}", "trainer.max_steps=2").code == 2


def test_what_translators_add_is_trained_on_and_counted(llm, tmp_path, monkeypatch):
    (tmp_path / "run.ckpt").write_bytes(b"a run")  # of which here only the hash is read
    monkeypatch.setattr("llmcli.translators.translator", lambda path, named: shout)
    (tmp_path / "rows.csv").write_text(ROWS, encoding="utf-8")
    rows = ["data=labeled_text", f"data.path={tmp_path / 'rows.csv'}", "tokenizer=byte", "data.val_fraction=0.2"]
    run = tmp_path / "run.ckpt"
    counts = []
    for options in ([], [f"prepare.reworded_by=[{run},{run}]"]):
        done = llm("prepare", *rows, *options, "--json")
        assert done.code == 0, done.err
        folder = json.loads(done.out)["path"]
        manifest = json.loads((tmp_path / folder / "manifest.json").read_text("utf-8"))
        counts.append({split: stats["documents"] for split, stats in manifest["splits"].items()})
    assert counts == [{"train": 16, "val": 4}, {"train": 32, "val": 4}]
    assert manifest["origin"].endswith(", 16 translations")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["prepare.reworded_by=[runs/one]"], "must be two runs"),
        (["prepare.reworded_by=[runs/no,runs/no]"], "there is no run or checkpoint runs/no"),
        (["prepare.sources_by=runs/no"], "prepare.targets, a file of texts, go together"),
    ],
)
def test_options_that_do_not_fit(llm, tmp_path, options, message):
    (tmp_path / "rows.csv").write_text(ROWS, encoding="utf-8")
    refused = llm("prepare", "data=labeled_text", f"data.path={tmp_path / 'rows.csv'}", *options)
    assert refused.code == 2 and message in refused.err
