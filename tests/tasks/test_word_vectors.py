"""Word vectors through the command line: trained, resumed, scored, asked, written, and taken up by another model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

import llmcli
from llmcli import checkpoint, runs
from llmcli.callbacks.checkpoints import Checkpoints
from llmcli.vectors import VectorFile

ANIMALS, THEIRS = ("cat", "dog", "horse", "sheep", "goose"), ("eats", "sleeps", "runs", "breathes")
TOOLS, WHAT_THEY_DO = ("hammer", "saw", "drill", "wrench", "chisel"), ("cuts", "bends", "breaks", "rusts")
MODELS = {"word2vec": "batch.size=8", "fasttext": "batch.size=8", "glove": "batch.size=64"}


@pytest.fixture(scope="session")
def two_topics(tmp_path_factory):
    """Sentences in which animals stand with what animals do, and tools with what tools do."""
    rng = random.Random(0)
    topics = (ANIMALS, THEIRS), (TOOLS, WHAT_THEY_DO)
    lines = []
    for _ in range(3000):
        nouns, verbs = rng.choice(topics)
        lines.append(f"the {rng.choice(nouns)} {rng.choice(verbs)} and the {rng.choice(nouns)} {rng.choice(verbs)}")
    path = tmp_path_factory.mktemp("topics") / "topics.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def settings(path: Path, model: str = "word2vec") -> list[str]:
    more = ["model.buckets=500"] if model == "fasttext" else []
    windows = [] if model == "glove" else ["batch.seq_len=32", "batch.window=3", "batch.subsample=0.05"]
    return [
        "data=text", f"data.path={path}", "data.document=line", f"model={model}", "model.d_model=16", *more, *windows,
        MODELS[model], "trainer.max_epochs=3", "trainer.accelerator=cpu",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def trained(two_topics, cache, tmp_path_factory):
    """The folder of one run of each model."""
    from llmcli import cli

    def train(model: str) -> Path:
        folder = tmp_path_factory.getbasetemp() / f"trained-{model}"
        if not folder.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("LLM_CACHE", str(cache))
                patch.setenv("LLM_RUN_DIR", "")
                assert cli.main(["train", *settings(two_topics, model), f"hydra.run.dir={folder}"]) == 0
        return folder

    return train


@pytest.mark.parametrize("model", MODELS)
def test_words_of_a_topic_become_neighbours(trained, llm, model):
    run = trained(model)
    figures = json.loads((run / "metrics.json").read_text("utf-8"))
    first = next(row for row in (run / "metrics.csv").read_text("utf-8").splitlines()[1:] if row)
    assert figures["floor_loss"] is None and figures["perplexity"] is None and figures["val_loss"] > 0 and first
    result = llm("predict", f"ckpt={run}", "--text", "cat", "--text", "hammer", "top=4")
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [answer["text"] for answer in answers] == ["cat", "hammer"]
    for answer, topic in zip(answers, (ANIMALS + THEIRS, TOOLS + WHAT_THEY_DO), strict=True):
        assert len(answer["neighbours"]) == 4
        assert {each["word"] for each in answer["neighbours"]} <= set(topic) - {answer["text"]}, answer


def test_the_summary_speaks_of_pairs_and_of_what_to_do_next(two_topics, llm):
    result = llm("train", *settings(two_topics), "trainer.max_epochs=1", "hydra.run.dir=run")
    assert result.code == 0, result.err
    assert "nats/pair" in result.err and "llm predict ckpt=run --text" in result.err
    assert "perplexity" not in result.err and "5-gram" not in result.err and "▸" not in result.err
    scored = json.loads(llm("eval", "ckpt=run", "--json").out)
    assert scored["loss"] == pytest.approx(
        json.loads(Path("run/metrics.json").read_text("utf-8"))["val_loss"], rel=1e-6
    )


class _Killed(BaseException):
    """Stands for a kill -9: nothing more is saved."""


@pytest.mark.parametrize("model", MODELS)
def test_a_run_that_was_killed_goes_on_exactly(two_topics, llm, monkeypatch, model):
    base = [*settings(two_topics, model), "trainer.max_steps=9", "trainer.val_every=4", "trainer.log_every=1"]
    assert llm("train", *base, "hydra.run.dir=whole").code == 0
    save = Checkpoints.save_last

    def save_and_die(self, trainer):
        save(self, trainer)
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save_last", save_and_die)
        with pytest.raises(_Killed):
            llm("train", *base, "callbacks.checkpoints.every=0.001", "hydra.run.dir=halves")
    assert checkpoint.read(Path("halves/checkpoints/last.ckpt"))["global_step"] < 9
    assert llm("train", "resume=halves", "callbacks.checkpoints.every=3m").code == 0
    one, other = (checkpoint.read(Path(name, "checkpoints/last.ckpt")) for name in ("whole", "halves"))
    assert one["global_step"] == other["global_step"] == 9
    for key, value in one["state_dict"].items():
        assert torch.equal(value, other["state_dict"][key]), key


def test_the_step_does_not_depend_on_how_a_batch_is_cut(two_topics, llm):
    """Two micro-batches of one window and one batch of two: the same sum, but for what is drawn for each."""
    base = [each for each in settings(two_topics) if not each.startswith("batch.")]
    base += ["batch.seq_len=32", "batch.subsample=0", "batch.window=1", "trainer.max_steps=1"]
    base += ["model.sparse=false", "optimizer=sgd", "optimizer.lr=0.001"]
    moved = []
    for name, cut in (("one", ["batch.size=64"]), ("two", ["batch.size=32", "trainer.accumulate=2"])):
        assert llm("train", *base, *cut, "schedule.warmup=0", f"hydra.run.dir={name}").code == 0
        state = checkpoint.read(Path(name, "checkpoints/last.ckpt"))["state_dict"]
        moved.append(float(state["model.output_embedding.weight"].norm()))
    assert moved[0] == pytest.approx(moved[1], rel=0.1)


# -- lists of words ------------------------------------------------------------------------------------------------


def test_lists_of_words_are_scored(trained, llm, tmp_path):
    (tmp_path / "pairs.txt").write_text(
        "Cat\tdog\t9\nhammer\tsaw\t8\ncat\tsaw\t1\ndog\tsubmarine\t3\n", encoding="utf-8"
    )
    (tmp_path / "questions.txt").write_text(": verbs\ncat eats dog sleeps\na b c d\n", encoding="utf-8")
    lists = ["--similarity", "pairs.txt", "--analogies", "questions.txt"]
    found = json.loads(llm("eval", f"ckpt={trained('word2vec')}", *lists, "--json").out)
    assert "loss" not in found
    assert found["similarity"]["pairs"]["covered"] == 3 and found["similarity"]["pairs"]["coverage"] == 0.75
    assert found["similarity"]["pairs"]["spearman"] > 0.4
    assert found["analogies"]["questions"]["questions"] == 2 and found["analogies"]["questions"]["covered"] == 1
    assert set(found["analogies"]["questions"]["sections"]) == {"verbs"}
    both = json.loads(llm("eval", f"ckpt={trained('word2vec')}", *lists, "split=val", "--json").out)
    assert both["loss"] > 0 and both["similarity"] == found["similarity"]
    table = llm("eval", f"ckpt={trained('word2vec')}", *lists).out
    assert "pairs" in table and "3 of 4" in table and "  verbs" in table and "1 of 2" in table


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_word_vectors_are_compared_as_they_were_trained(trained, llm, tmp_path, precision):
    (tmp_path / "pairs.txt").write_text("cat\tdog\t9\ncat\tsaw\t1\nhammer\tsaw\t8\n", encoding="utf-8")
    run = trained("word2vec")
    for command in (["eval", "--similarity", "pairs.txt"], ["eval"], ["predict", "--text", "cat"]):
        refused = llm(*command, f"ckpt={run}", f"precision={precision}")
        said = f"precision={precision} is that of layers, and a WordVectors run has none: its vectors are looked up"
        assert refused.code == 2 and said in refused.err and not refused.out
    assert llm("eval", "--similarity", "pairs.txt", f"ckpt={run}", "precision=32").code == 0


def test_lists_are_for_word_vectors(llm, small):
    assert llm("train", *small, "model=rnn", "trainer.max_steps=1", "hydra.run.dir=rnn").code == 0
    result = llm("eval", "ckpt=rnn", "--similarity", "pairs.txt")
    assert result.code == 2 and "lists of words are for word vectors, and this is a LanguageModeling run" in result.err
    result = llm("predict", "ckpt=rnn", "--text", "word")
    assert result.code == 2 and "which predicts nothing about a text" in result.err and "llm generate" in result.err
    assert llm("export", "ckpt=rnn", "to=v.txt").code == 2


# -- llm predict ---------------------------------------------------------------------------------------------------


def test_texts_come_from_options_files_and_standard_input(trained, llm, tmp_path, monkeypatch):
    run = trained("word2vec")
    (tmp_path / "words.txt").write_bytes("\ufeffcat\r\n\nsaw\n".encode())
    result = llm("predict", f"ckpt={run}", "--text", "dog", "--input", "words.txt", "--json", "top=1")
    assert [json.loads(line)["text"] for line in result.out.splitlines()] == ["dog", "cat", "", "saw"]
    with (tmp_path / "words.txt").open(encoding="utf-8-sig") as file:
        monkeypatch.setattr("sys.stdin", file)
        result = llm("predict", f"ckpt={run}", "top=1")
    assert [json.loads(line)["text"] for line in result.out.splitlines()] == ["cat", "", "saw"]


def test_a_text_of_several_words_is_their_mean_and_an_unknown_one_has_no_neighbours(trained, llm):
    result = llm("predict", f"ckpt={trained('word2vec')}", "--text", "cat dog qwertz", "--text", "qwertz", "top=2")
    several, unknown = map(json.loads, result.out.splitlines())
    assert several["known"] == ["cat", "dog"] and len(several["neighbours"]) == 2
    assert unknown == {"text": "qwertz", "known": [], "neighbours": []}
    fasttext = json.loads(llm("predict", f"ckpt={trained('fasttext')}", "--text", "hammers", "top=1").out)
    assert fasttext["known"] == ["hammers"] and fasttext["neighbours"][0]["word"] in TOOLS + WHAT_THEY_DO


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--input", "nowhere.txt"], "--input nowhere.txt: No such file or directory"),
        (["--input", "latin.txt"], "--input latin.txt, line 2 is not UTF-8: byte 0xe9"),
        (["--input", "empty.txt"], "there is no text to predict for"),
        (["--text", "cat", "top=0"], "top (0) must be at least 1"),
    ],
)
def test_what_cannot_be_predicted_for_is_named(trained, llm, tmp_path, words, message):
    (tmp_path / "latin.txt").write_bytes("cat\ncafé\n".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"\n")
    result = llm("predict", f"ckpt={trained('word2vec')}", *words)
    assert result.code == 2 and message in result.err


def test_on_a_terminal_there_is_a_table(trained, llm, monkeypatch):
    monkeypatch.setattr("llmcli.ui.is_terminal", lambda stream="stderr": stream == "stdout")
    out = llm("predict", f"ckpt={trained('word2vec')}", "--text", "cat", "--text", "qwertz", "top=2").out
    assert out.splitlines()[0] == "cat" and "word" in out and "cosine" in out and "neighbours: none" in out


def test_from_python(trained):
    [answer] = llmcli.load(trained("word2vec")).predict("cat", top=4)
    assert answer["text"] == "cat" and {each["word"] for each in answer["neighbours"]} <= set(ANIMALS + THEIRS)


# -- files and other models ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "more", "form"),
    [("v.txt", [], "word2vec"), ("v.bin.gz", [], "word2vec_binary"), ("v.gz", ["format=glove"], "glove")],
)
def test_vectors_are_written_in_every_format(trained, llm, name, more, form):
    run = trained("glove")
    result = llm("export", f"ckpt={run}", f"to={name}", *more, "--json")
    loaded = checkpoint.load(runs.resolve(str(run), "use"))
    words, vectors = loaded.task.vectors(loaded.tokenizer)
    assert json.loads(result.out) == {"path": name, "format": form, "words": len(words), "dimensions": 16}
    found = dict(VectorFile.open(Path(name)).read())
    assert VectorFile.open(Path(name)).format == form and list(found) == words
    assert all(torch.equal(torch.from_numpy(found[word].copy()), row) for word, row in zip(words, vectors, strict=True))


@pytest.mark.parametrize("model", ["transformer", "gpt2", "lstm", "mlp", "word2vec"])
def test_any_model_can_start_from_them(trained, two_topics, llm, model):
    run = trained("word2vec")
    assert llm("export", f"ckpt={run}", "to=v.txt").code == 0
    width = {"mlp": "model.d_embed=16"}.get(model, "model.d_model=16")
    sizes = {"lstm": ["model.d_hidden=16"], "transformer": ["model.n_heads=2", "model.ngram_rows=[]"], "gpt2": []}
    base = [
        "data=text",
        f"data.path={two_topics}",
        "data.document=line",
        f"model={model}",
        width,
        *sizes.get(model, []),
    ]
    base += ["tokenizer=word", "batch.size=2", "batch.seq_len=16", "trainer.max_steps=1", "trainer.accelerator=cpu"]
    rate = "optimizer.lr=0" if model == "word2vec" else "optimizer=sgd"
    still = [*base, rate, "optimizer.lr=0.0", "trainer.precision=32-true"]
    for source in ("v.txt", str(run)):
        result = llm("train", *still, f"model.embedding_init={source}", f"hydra.run.dir=from-{Path(source).stem}")
        assert result.code == 0, result.err
        assert f"embeddings  20 of 20 ids (100%) start from {source}" in result.err
        loaded = checkpoint.load(runs.resolve(f"from-{Path(source).stem}", "use"))
        given = checkpoint.load(runs.resolve(str(run), "use"))
        _, vectors = given.task.vectors(given.tokenizer)
        assert torch.equal(loaded.task.model.input_embedding.weight[16:], vectors)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.d_model=32"], "the vectors of v.txt have 16 dimensions, the model's embedding has 32"),
        (["model.embedding_init=nowhere.txt"], "model.embedding_init: there is no nowhere.txt"),
        (["tokenizer=char", "tokenizer.min_frequency=1"], "no word of v.txt is in the vocabulary"),
        (["model=ngram"], "model.embedding_init: NGram has no input embedding"),
    ],
)
def test_vectors_that_do_not_fit_are_refused_before_there_is_a_run(two_topics, llm, tmp_path, overrides, message):
    (tmp_path / "v.txt").write_text("1 16\ncat" + " 0.5" * 16 + "\n", encoding="utf-8")
    base = ["data=text", f"data.path={two_topics}", "data.document=line", "tokenizer=word", "batch.seq_len=16"]
    model = [] if "model=ngram" in overrides else ["model=gpt2", "model.d_model=16"]
    result = llm("train", *base, *model, "model.embedding_init=v.txt", *overrides, "hydra.run.dir=run")
    assert result.code == 2 and message in result.err, result.err
    assert not Path("run").exists()


# -- what does not go together ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=word2vec", "optimizer=adamw"], "AdamW cannot use the sparse gradients of word vectors"),
        (["model=glove", "batch.size=64", "optimizer=sgd"], "SGD cannot use the sparse gradients of word vectors"),
        (["model=word2vec", "batch=windows"], "learns from pairs, and batch=windows gives windows"),
        (["model=fasttext", "batch=cooccurrences"], "learns from pairs, and batch=cooccurrences gives cells"),
        (["model=gpt2", "batch=word_windows"], "learns from windows, and batch=word_windows gives pairs"),
        (["model=word2vec", "task=language_modeling"], "cannot be trained with task=language_modeling"),
        (["model=word2vec", "model.objective=glove"], "expected one of skip_gram, cbow, got 'glove'"),
        (["model=word2vec", "batch.window=0"], "batch.window (0) must be at least 1"),
        (["model=word2vec", "batch.subsample=-1"], "batch.subsample (-1) must be at least 0"),
        (["model=glove", "batch.size=0"], "batch.size (0) must be at least 1"),
        (["model=glove", "batch.size=100000"], "fewer than a step takes: batch.size (100,000)"),
    ],
)
def test_what_does_not_go_together_is_refused_before_there_is_a_run(two_topics, llm, overrides, message):
    base = ["data=text", f"data.path={two_topics}", "data.document=line", "trainer.accelerator=cpu"]
    result = llm("train", *base, *overrides, "hydra.run.dir=run")
    assert result.code == 2 and message in result.err, result.err
    assert not Path("run").exists()


def test_dense_gradients_suit_every_optimizer(two_topics, llm):
    more = ["model.sparse=false", "optimizer=adamw", "trainer.max_epochs=1", "hydra.run.dir=run"]
    assert llm("train", *settings(two_topics), *more).code == 0
