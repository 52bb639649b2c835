"""Speculative decoding: another run guesses, and every text is as likely as without it."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from test_lookup import OFF, PROMPTS, decode, ids_of, values
from toy import ToyModel

from llmcli import checkpoint
from llmcli.config import build
from llmcli.decoding.check import ExactCheck
from llmcli.decoding.drafted import Drafts
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.penalties import Penalties
from llmcli.decoding.prefix_cache import PrefixCache
from llmcli.decoding.sample import Sample
from llmcli.decoding.speculative import Speculative
from llmcli.errors import InputError
from llmcli.models.transformer import FusedBlock
from llmcli.strategies import strategy_of
from llmcli.tasks.language_modeling import LanguageModeling

CPU = torch.device("cpu")


def speculative(draft, *, draft_tokens=3, **sampler):
    strategy = Speculative(draft="it", draft_tokens=draft_tokens, **values(**sampler))
    strategy.use(draft)
    return strategy


class Grid:
    """In place of random numbers: those given, (B,)."""

    def __init__(self, numbers):
        self.numbers = numbers

    def at(self, rows, places, count):
        return self.numbers[:, None].expand(-1, count)


@pytest.mark.parametrize("sampler", [{}, {"temperature": 0.5, "top_k": 4}, {"top_p": 0.7}])
def test_each_token_has_the_probability_that_the_model_gives_it(sampler):
    """Summed over every guess, and all random numbers of a fine grid, at the guess's place and the one behind it."""
    size, fine = 6, 80
    generator = torch.Generator().manual_seed(8)
    ours, theirs = 2 * torch.randn(2, 2, size, generator=generator)
    sample = Sample(**values(**sampler))
    p, q = (sample.filter(each).softmax(-1).double() for each in (ours, theirs))
    middle = (torch.arange(fine) + 0.5) / fine
    stays, tokens = (each.flatten() for each in torch.meshgrid(middle, middle, indexing="ij"))
    found = torch.zeros(2, size, dtype=torch.float64)
    for guess in range(size):
        if q[0, guess] == 0:
            continue
        check = ExactCheck(sample, [0], CPU)
        check._stays, check._tokens = Grid(stays), Grid(tokens)
        drafts = Drafts([[guess]] * fine**2, sample.filter(theirs[:1])[None].expand(fine**2, 1, size))
        chosen = check(ours[None].expand(fine**2, 2, size), drafts, [0] * fine**2, [0] * fine**2)  # (B, 2)
        for place in range(2):
            found[place] += q[0, guess] * chosen[:, place].bincount(minlength=size) / fine**2
    assert (found - p).abs().max() < 2 / fine
    assert found[p == 0].sum() == 0


class Table(ToyModel):
    """A toy that looks each context up."""

    def logits(self, context):
        self.known = getattr(self, "known", {})
        key = tuple(context)
        if key not in self.known:
            self.known[key] = super().logits(context)
        return self.known[key]


@pytest.mark.parametrize("sampler", [{"top_p": 0.9}, {"temperature": 0.7, "repetition": 1.4}, {"frequency": 0.8}])
@pytest.mark.parametrize("window", [None, 3])
def test_texts_of_three_tokens_come_as_often_as_the_model_says(sampler, window):
    count, size = 1500, 3
    model, draft = Table(size, window, seed=1), Table(size, seed=2)
    found = ids_of(decode(speculative(draft, draft_tokens=2, **sampler), model, [[1, 2]] * count, max_new_tokens=3))
    observed = torch.tensor(found) @ torch.tensor([9, 3, 1])
    sample, expected = Sample(**values(**sampler)), torch.ones(27, dtype=torch.float64)
    for number, text in enumerate(itertools.product(range(size), repeat=3)):
        held = sample.penalties.begin([[1, 2]], size, CPU)
        for place, token in enumerate(text):
            context = [1, 2, *text[:place]]
            context = context if window is None or len(context) <= window else context[-2:]  # three quarters of it
            logits = model.logits(context)[None]
            logits = sample.filter(logits if held is None else held.adjust(logits))
            expected[number] *= logits.softmax(-1)[0, token].double()
            if held is not None:
                held.add([token])
    observed = observed.bincount(minlength=27).double()
    expected *= count
    assert observed[expected == 0].sum() == 0
    live = expected > 0
    assert live.sum() > 8
    # 99.99 % of chi-square with 26 degrees of freedom lies below 61.7
    assert float(((observed - expected)[live] ** 2 / expected[live]).sum()) < 61.7


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 1000),
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=9), min_size=1, max_size=4),
    st.integers(1, 5),
    st.sampled_from([None, 1, 2, 5, 8]),
    st.sampled_from([None, 1, 3, 7]),
    st.integers(1, 25),
    st.sampled_from([{}, {"repetition": 1.3}, {"no_repeat_ngram": 2}]),
)
def test_greedy_texts_are_those_of_greedy_decoding(seed, prompts, draft_tokens, window, other, max_new_tokens, asked):
    model, draft = ToyModel(4, window, seed=seed), ToyModel(4, other, seed=seed + seed % 2)  # the same, or another
    settings = {"max_new_tokens": max_new_tokens, "end_ids": [2]}
    expected = decode(Greedy(penalties=Penalties(**{**OFF, **asked})), model, prompts, **settings)
    strategy = speculative(draft, draft_tokens=draft_tokens, temperature=0.0, **asked)
    assert ids_of(decode(strategy, model, prompts, **settings)) == ids_of(expected)


@pytest.mark.parametrize("prompt", [[1, 2], [3]])
@pytest.mark.parametrize("sampler", [{"temperature": 0.0}, {}, {"top_p": 0.8, "presence": 0.5}])
def test_what_the_same_model_guesses_stays(sampler, prompt):
    model, draft = ToyModel(6, seed=4), ToyModel(6, seed=4)
    [(ids, logprobs, steps)] = decode(speculative(draft, **sampler), model, [prompt], max_new_tokens=21)
    assert steps == 6 and model.calls == [(1, len(prompt)), *[(1, 4)] * 5]  # the prompt's, then four tokens each
    for place, (number, logprob) in enumerate(zip(ids, logprobs, strict=True)):
        assert logprob == pytest.approx(float(model.logits([*prompt, *ids[:place]]).log_softmax(-1)[number]), abs=1e-5)


def test_a_row_does_not_depend_on_the_rows_beside_it():
    model, draft = ToyModel(5, 12, seed=1), ToyModel(5, 9, seed=2)
    strategy = speculative(draft, repetition=1.2)
    together = decode(strategy, model, PROMPTS, max_new_tokens=40, end_ids=[2], seed=3)
    assert len({len(ids) for ids, _, _ in together}) > 1
    assert decode(strategy, model, PROMPTS, max_new_tokens=40, end_ids=[2], seed=3) == together
    for rows in (1, 2, 3):
        found = decode(strategy, model, PROMPTS[:rows], max_new_tokens=40, end_ids=[2], seed=3)
        assert [(ids, steps) for ids, _, steps in found] == [(ids, steps) for ids, _, steps in together[:rows]]


SMALL = {
    "transformer": {"d_model": 16, "n_layers": 2, "n_heads": 2, "ngram_rows": [32]},
    "lstm": {"d_model": 16, "d_hidden": 16, "n_layers": 2},
    "mlp": {"d_embed": 8, "d_hidden": 16, "window": 4},
}


def network(name, seed):
    """An untrained run of eleven ids that is sure of what it says."""
    config = OmegaConf.load(Path(__file__).parents[2] / "configs" / "model" / f"{name}.yaml")
    config.pop("defaults", None)
    root = {"facts": {"vocab_size": 11}, "batch": {"seq_len": 20}, "task": {"causal": True}}
    torch.manual_seed(seed)
    model = build(OmegaConf.create({**root, "model": OmegaConf.merge(config, SMALL[name])}).model)
    task = LanguageModeling(model=model, causal=True, label_smoothing=0.0).eval()
    with torch.no_grad():
        for weight in task.parameters():
            weight.add_(0.5 * torch.randn_like(weight))
    return task


@pytest.mark.parametrize(("name", "other"), [
    ("transformer", "transformer"), ("transformer", "lstm"), ("transformer", "mlp"), ("lstm", "transformer"),
    ("lstm", "lstm"), ("mlp", "lstm"),
])  # fmt: skip
def test_networks_of_every_kind_guess_for_each_other(name, other):
    model, prompts = network(name, 1), [[1, 2, 3, 4, 5], [6], [7, 8, 7]]
    greedy = decode(Greedy(penalties=Penalties(**OFF)), model, prompts, max_new_tokens=30, end_ids=[0])
    for draft in (network(other, 2), network(name, 1)):
        for rows in (1, 3):
            strategy = speculative(draft, temperature=0.0)
            found = decode(strategy, model, prompts[:rows], max_new_tokens=30, end_ids=[0])
            assert ids_of(found) == ids_of(greedy[:rows])
    assert sum(steps for _, _, steps in found) < sum(map(len, ids_of(found))) / 2  # guessed by its own likeness


def test_a_draft_remembers_a_conversation():
    draft = ToyModel(6, seed=1)
    strategy = speculative(draft, temperature=0.0)
    [(ids, _, _)] = decode(strategy, ToyModel(6, seed=1), [[1, 2, 3]], max_new_tokens=9)
    draft.calls.clear()
    decode(strategy, PrefixCache(ToyModel(6, seed=1), capacity=99), [[1, 2, 3, *ids, 4, 5]], max_new_tokens=1)
    decode(strategy, PrefixCache(ToyModel(6, seed=1), capacity=99), [[1, 2, 3, *ids, 4, 5]], max_new_tokens=3)
    assert draft.calls[0][1] < 6  # what was not guessed, and the new ones


@pytest.mark.parametrize("prompts", [[[1, 2]], PROMPTS])
def test_nothing_is_read_where_nothing_can_be_guessed(prompts):
    """Of the last token that a text may have there is no guess: the step of the model says it."""

    def steps_of_the_draft(max_new_tokens):
        draft = ToyModel(6, seed=4)
        decode(speculative(draft, temperature=0.0), ToyModel(6, seed=4), prompts, max_new_tokens=max_new_tokens)
        return len(draft.calls)

    assert steps_of_the_draft(1) == steps_of_the_draft(2) == 0
    assert steps_of_the_draft(21) == steps_of_the_draft(22) == 15  # three guesses for each of five steps


def test_values_outside_their_range_are_refused():
    with pytest.raises(InputError, match=r"decoding.draft_tokens \(0\) must be at least 1"):
        speculative(ToyModel(), draft_tokens=0)


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def likeness(trained, tmp_path):
    """The same weights in a file of their own, which guess what the run would say."""
    return shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path / "likeness.ckpt")


def test_the_command_takes_a_run_that_drafts(llm, trained, likeness):
    asked = ["generate", f"ckpt={trained}", "accelerator=cpu", "max_new_tokens=60", "--json", "--prompt", "the cat"]
    greedy = llm(*asked, "decoding=greedy")
    found = llm(*asked, "decoding=speculative", f"decoding.draft={likeness}", "decoding.temperature=0")
    assert greedy.code == found.code == 0, found.err
    [one], [other] = (json.loads(result.out)["results"] for result in (greedy, found))
    assert (one["ids"], one["finish_reason"]) == (other["ids"], other["finish_reason"])
    assert json.loads(found.out)["tokens_per_step"] > 3 and "tokens per step of the model" in found.err


def test_a_draft_is_prepared_as_the_run_is(trained, likeness):
    yaml = OmegaConf.load(Path(__file__).parents[2] / "configs" / "decoding" / "speculative.yaml")
    loaded = checkpoint.load(trained / "checkpoints" / "best.ckpt")
    strategy = strategy_of(loaded, OmegaConf.merge(yaml, {"draft": str(likeness)}))
    assert all(isinstance(each, FusedBlock) for each in strategy._model._model.model.blocks)


def test_drafts_that_cannot_help_are_refused(llm, trained, small, tmp_path):
    other = tmp_path / "chars"
    assert llm("train", *small, "tokenizer=char", "trainer.max_steps=1", f"hydra.run.dir={other}").code == 0
    asked = ["generate", f"ckpt={trained}", "accelerator=cpu", "decoding=speculative", "--prompt", "a"]
    refused = llm(*asked, f"decoding.draft={other}")
    assert refused.code == 2 and f"decoding.draft={other} has other tokens (" in refused.err
    assert f"than {trained}/checkpoints/best.ckpt (272): id 16 is " in refused.err
    assert "needs decoding.draft, a smaller run" in llm(*asked).err
    assert "decoding.draft=nowhere: there is no run or checkpoint nowhere" in llm(*asked, "decoding.draft=nowhere").err
    for same in (trained, trained / "checkpoints" / "best.ckpt"):
        refused = llm(*asked, f"decoding.draft={same}")
        assert refused.code == 2 and f"decoding.draft={same}: it is the run itself, whose guesses cost" in refused.err
        assert "a smaller run with the same vocabulary" in refused.err
    Path("films.csv").write_text("text,label\n" + "".join(f"film {n},{n % 2}\n" for n in range(40)), encoding="utf-8")
    films = ["data=labeled_text", "data.path=films.csv", "data.val_fraction=0.25", "model=dan"]
    assert llm("train", *films, "trainer.max_steps=1", "trainer.accelerator=cpu", "hydra.run.dir=films").code == 0
    refused = llm(*asked, "decoding.draft=films")
    assert refused.code == 2 and "decoding.draft=films/checkpoints/best.ckpt is a Classification run" in refused.err
    training = llm("train", *small, "decoding=speculative", f"decoding.draft={trained}")
    assert training.code == 2 and "guesses for a run that is there, not for one that is trained" in training.err
