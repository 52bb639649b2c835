"""What holds for every model that turns one text into another, whichever strategy finds its texts."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from toy import penalties

from llmcli import attention_maps, decoded
from llmcli.config import build
from llmcli.decoded import decode
from llmcli.decoding.alignment import attention
from llmcli.decoding.beam import Beam
from llmcli.decoding.constrained import Constraint
from llmcli.decoding.contrastive import Contrastive
from llmcli.decoding.diverse_beam import DiverseBeam
from llmcli.decoding.generate import generate
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.mbr import MinimumBayesRisk
from llmcli.decoding.penalties import Penalties
from llmcli.decoding.sample import Sample
from llmcli.tasks.sequence_to_sequence import SequenceToSequence
from llmcli.tokenizers.char import CharTokenizer

CHARS = CharTokenizer("abcdefgh0123")
SMALL = {"d_model": 16, "n_encoder_layers": 1, "n_decoder_layers": 2, "n_heads": 2, "dropout": 0.0}
SOURCES = ["abc", "h", "abcdefgh", "ddd", "ba"]
SHARED = {"length_penalty": "gnmt", "alpha": 1.0, "early_stopping": True}
GREEDY = Greedy(penalties=penalties())
SAMPLE = Sample(temperature=1.0, top_k=None, top_p=None, min_p=None, typical_p=None, penalties=penalties())
BEAM = Beam(beams=3, n_best=3, coverage=0.2, **SHARED)
DIVERSE = DiverseBeam(beams=4, n_best=2, groups=2, diversity=0.5, coverage=0.0, penalties=penalties(), **SHARED)
STRATEGIES = {
    "greedy": GREEDY,
    "sample": SAMPLE,
    "beam": BEAM,
    "diverse_beam": DIVERSE,
    "contrastive": Contrastive(top_k=3, alpha=0.5),
    "mbr": MinimumBayesRisk(samples=4, n_best=1, sampler=SAMPLE),
}


@pytest.fixture(scope="module", params=["seq2seq_transformer", "seq2seq_rnn", "seq2seq_cnn"])
def task(request):
    config = OmegaConf.load(Path(__file__).parents[2] / "configs" / "model" / f"{request.param}.yaml")
    config.pop("defaults")
    changes = {key: value for key, value in SMALL.items() if key in config}
    root = {"facts": {"vocab_size": CHARS.vocab_size, "source_vocab_size": None}, "batch": {"seq_len": 24}}
    torch.manual_seed(1)
    model = build(OmegaConf.create({**root, "model": OmegaConf.merge(config, changes)}).model)
    with torch.no_grad():  # as they begin, they hardly look at the source
        for weight in model.parameters():
            weight.add_(0.4 * torch.randn_like(weight))
    return SequenceToSequence(
        model=model, causal=True, bos_id=CHARS.bos_id, eos_id=CHARS.eos_id, label_smoothing=0.0
    ).eval()


def write(task, sources=SOURCES, *, strategy=GREEDY, **more):
    return generate(task, CHARS, sources, strategy=strategy, **{"max_new_tokens": 14, "seed": 3, **more})


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_text_depends_on_its_own_source_and_place_alone(task, name):
    together = write(task, strategy=STRATEGIES[name])
    others = write(task, ["abc", "e", "fedc", "ddd"], strategy=STRATEGIES[name])
    for row in (0, 3):
        assert others[row].ids == together[row].ids
        assert others[row].logprobs == pytest.approx(together[row].logprobs, abs=1e-4)
    if name not in ("sample", "mbr"):  # nothing is drawn, so the place does not count either
        for source, found in zip(SOURCES, together, strict=True):
            assert write(task, [source], strategy=STRATEGIES[name])[0].ids == found.ids


def test_samples_of_one_source_differ(task):
    assert len({tuple(each.ids) for each in write(task, ["abc"], strategy=SAMPLE, num_samples=5)}) > 1


def test_one_beam_is_greedy(task):
    one = Beam(beams=1, n_best=1, **SHARED)
    assert [each.ids for each in write(task, strategy=one)] == [each.ids for each in write(task)]


@pytest.mark.parametrize("name", STRATEGIES)
def test_log_probabilities_are_those_of_the_whole_text_read_at_once(task, name):
    for found in write(task, strategy=STRATEGIES[name]):
        source = torch.tensor([[*CHARS.encode(found.prompt), CHARS.eos_id]])
        given = torch.tensor([[CHARS.bos_id, *found.ids[:-1]]])
        expected = task.head.logits(task.model(source, None, given)).log_softmax(-1)[
            0, range(len(found.ids)), found.ids
        ]
        assert found.logprobs == pytest.approx(expected.tolist(), abs=1e-3)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_constrained_text_validates(task, name):
    pytest.importorskip("llguidance")
    rule = Constraint(CHARS, pattern="[a-c]{2,5}[0-3]")
    for found in write(task, strategy=STRATEGIES[name], constraint=rule):
        for text, reason in [(found.text, found.finish_reason), *((n.text, n.finish_reason) for n in found.n_best)]:
            assert reason == "end" and re.fullmatch("[a-c]{2,5}[0-3]", text)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_forced_prefix_begins_every_text(task, name):
    for found in write(task, strategy=STRATEGIES[name], prefix="ab1", aligned=True):
        assert found.text == "ab1" + CHARS.decode(found.ids)
        assert all(each.text.startswith("ab1") for each in found.n_best)
        assert len(found.alignment) == len(found.ids)


def test_what_a_text_begins_with_anyway_changes_nothing(task):
    for free in write(task):
        begin = CHARS.decode(free.ids[:2])
        if len(begin) == 2:  # no special ids
            [begun] = write(task, [free.prompt], prefix=begin, max_new_tokens=12)
            assert begun.text == free.text and begun.ids == free.ids[2:]


def test_a_stop_text_ends_a_text(task):
    for strategy in (GREEDY, BEAM, STRATEGIES["mbr"]):
        for found in write(task, strategy=strategy, stop=["a", "2"]):
            for text in (found.text, *(each.text for each in found.n_best)):
                assert "a" not in text and "2" not in text
            assert all("a" not in CHARS.decode(each.ids[:-1]) for each in found.n_best)


def test_no_run_comes_twice_in_a_beam(task):
    held = Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=2)
    for found in write(task, strategy=Beam(beams=3, n_best=3, penalties=held, **SHARED)):
        for each in found.n_best:
            pairs = list(zip(each.ids, each.ids[1:], strict=False))
            assert len(pairs) == len(set(pairs))


@torch.inference_mode()
def test_attention_is_that_of_each_step(task):
    encoded = [CHARS.encode(source) for source in SOURCES]
    targets = [each.ids for each in write(task)]
    looked = attention(task, encoded, targets)
    for source, target, weights in zip(encoded, targets, looked, strict=True):
        assert weights.shape == (len(target), len(source) + 1) and (weights > 0).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(len(target)))
        [alone] = attention(task, [source], [target])
        torch.testing.assert_close(weights, alone, rtol=1e-3, atol=1e-4)
        bound = task.bind([source], attention=True)
        state = bound.init_state(1, len(target))
        for place, token in enumerate([CHARS.bos_id, *target[:-1]]):
            out = bound.step(torch.tensor([[token]]), state, last_only=True)
            state = out.state
            torch.testing.assert_close(out.attention.mean(1)[0, 0], weights[place], rtol=1e-3, atol=1e-4)
    for found, weights in zip(write(task, aligned=True), looked, strict=True):
        assert [each.source for each in found.alignment] == weights[:, :-1].argmax(1).tolist()
    plain = task.bind(encoded)
    assert plain.step(torch.tensor([[CHARS.bos_id]] * 5), plain.init_state(5, 3)).attention is None


def test_blank_sources_give_empty_texts_where_asked(task):
    found = write(task, ["abc", "", "  ", "ddd"], skip_blank=True, aligned=True)
    assert [(each.text, each.ids, each.finish_reason) for each in found[1:3]] == [("", [], "end")] * 2
    assert (found[0].ids, found[3].ids) == (write(task)[0].ids, write(task)[3].ids)
    assert [each.text for each in write(task, ["", ""], skip_blank=True)] == ["", ""]


class Read:
    """Stored examples with these sources."""

    def __init__(self, sources):
        self.sources = sources

    def __len__(self):
        return len(self.sources)

    def ids(self, number):
        return [np.array(CHARS.encode(self.sources[number]), np.uint16)]


def test_what_is_drawn_for_an_example_follows_from_its_number(task, monkeypatch):
    examples = Read(["abc", "abc", "", "abc", "h", "abc", "ddd"])
    together = decode(task, CHARS, examples, strategy=SAMPLE, max_new_tokens=14)
    monkeypatch.setattr(decoded, "AT_ONCE", 2)
    assert decode(task, CHARS, examples, strategy=SAMPLE, max_new_tokens=14) == together
    assert together[2] == "" and len({together[number] for number in (0, 1, 3, 5)}) > 2


def test_every_encoder_decoder_draws_where_it_looked(task, tmp_path, monkeypatch):
    monkeypatch.setattr(attention_maps, "draw_attention", lambda path, looked: drawn.extend(looked) or True)
    drawn = []
    loaded = SimpleNamespace(task=task, tokenizer=CHARS, path=tmp_path)
    pairs = [("abc", "12"), ("h", "012")]
    sources, targets = zip(*((CHARS.encode(source), CHARS.encode(target)) for source, target in pairs), strict=True)
    page, _ = attention_maps.write_attention(tmp_path / "map.html", loaded, sources, targets)
    assert page.stat().st_size > 1000
    for (source, target), each in zip(pairs, drawn, strict=True):
        assert (list(each.source), list(each.target)) == ([*source, "end"], list(target))
        mean = torch.tensor(each.mean)
        assert mean.shape == (len(target), len(source) + 1)
        assert mean.sum(1).tolist() == pytest.approx([1.0] * len(target), abs=1e-4)
