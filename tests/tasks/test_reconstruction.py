"""task=reconstruction: what a text becomes, the parts of its bound against exact integrals, what training changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmcli.data.example_batches import EncodeRows, collate
from llmcli.data.records import LabeledText
from llmcli.decoding.beam import Beam
from llmcli.decoding.codes import CodeModel, between, drawn
from llmcli.decoding.generate import generate
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError
from llmcli.losses import IGNORED
from llmcli.metrics.codes import ActiveUnits
from llmcli.models.autoencoder import Autoencoder, Posterior
from llmcli.models.vae import VAE
from llmcli.tasks import reconstruction
from llmcli.tasks.annealing import Annealing
from llmcli.tasks.base import figures
from llmcli.tasks.reconstruction import Reconstruction
from llmcli.tokenizers.char import CharTokenizer

CHARS = CharTokenizer("abcdefgh")
BOS, EOS, MASK, LIMIT = CHARS.bos_id, CHARS.eos_id, CHARS.mask_id, 12
GREEDY = Greedy(penalties=Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0))
TEXTS = ["abc", "h", "abcdefgh", "dd"]


def make(kind=VAE, *, d_code=2, spread=1.0, **changes):
    torch.manual_seed(0)
    model = kind(
        cell="gru", vocab_size=CHARS.vocab_size, d_model=8, d_code=d_code, n_encoder_layers=1, n_decoder_layers=1,
        pooling="max", share_embeddings=True, tie_embeddings=False, dropout=0.0,
    )  # fmt: skip
    with torch.no_grad():  # as they begin, all codes are much alike and say little
        for weight in model.parameters():
            weight.add_(spread * torch.randn_like(weight))
    settings = {
        "causal": True, "bos_id": BOS, "eos_id": EOS, "mask_id": MASK, "drop": 0.0, "shuffle": 0, "word_dropout": 0.0,
        "free_bits": 0.0, "kl": anneal(), "head_cutoffs": None,
    }  # fmt: skip
    return Reconstruction(model=model, **{**settings, **changes}).double().eval()


def anneal(start=0.0, end=0.0):
    return Annealing(shape="linear", start=start, end=end, weight=1.0, cycles=1)


def batch(task, texts=TEXTS, first=0):
    encode = task.encoder(CHARS)
    rows = [row for text in texts for row in encode.rows(LabeledText(text), encoded(text), LIMIT)]
    return {**collate(rows, encode.pad), "numbers": torch.arange(first, first + len(texts))}


def encoded(text):
    return [np.array(CHARS.encode(text), np.uint16)]


def test_what_a_text_becomes_and_one_that_is_cut_does_not_seem_to_end():
    encode = make().encoder(CHARS)
    assert isinstance(encode, EncodeRows)
    [row] = encode.rows(LabeledText("abc"), encoded("abc"), LIMIT)
    a, b, c = CHARS.encode("abc")
    assert row["ids"].tolist() == row["labels"].tolist() == [a, b, c, EOS]
    assert row["target"].tolist() == [BOS, a, b, c] and row["n_tokens"] == 4
    [cut] = encode.rows(LabeledText("abcd"), encoded("abcd"), 2)
    assert cut["ids"].tolist() == cut["labels"].tolist() == [a, b] and cut["target"].tolist() == [BOS, a]
    [empty] = encode.rows(LabeledText(""), encoded(""), LIMIT)
    assert empty["ids"].tolist() == [EOS] and empty["target"].tolist() == [BOS]
    assert encode.sizes(np.array([3, 1, 20]), np.arange(3), 12).longest.tolist() == [4, 2, 12]


def exact_nll(task, text, reach=7.0, step=0.05):
    """-log of the integral of p(text | code) N(code; 0, I), on a grid."""
    line = torch.arange(-reach, reach, step, dtype=torch.float64)
    codes = torch.cartesian_prod(line, line)
    given = batch(task, [text])
    found = []
    for some in codes.split(20_000):
        hidden = task.model.decode(given["target"].repeat(len(some), 1), some)
        logprobs = task.head.logits(hidden).log_softmax(-1)
        of_text = logprobs.gather(2, given["labels"].repeat(len(some), 1)[..., None])[..., 0].sum(1)
        found.append(of_text - 0.5 * some.square().sum(1) - math.log(2 * math.pi))
    return -float(torch.cat(found).logsumexp(0) + 2 * math.log(step))


@torch.no_grad()
def test_the_bounds_are_above_the_exact_value_and_come_to_it():
    task = make(spread=0.5)
    for text in ("abc", "h"):
        exact = exact_nll(task, text)
        found = {}
        for samples in (1, 5, 4000):
            task.samples = samples
            runs = [task._step(batch(task, [text], number), "val").each for number in range(1 if samples > 5 else 200)]
            bound = torch.stack([each.get("bound", each["loss"]) for each in runs]).mean()
            found[samples] = float(bound)
        assert found[1] > found[5] > exact - 0.02
        assert found[4000] == pytest.approx(exact, abs=0.05)


@torch.no_grad()
def test_the_parts_add_up():
    task = make()
    given = batch(task)
    posterior = task.model.encode(given["ids"], given["mask"])
    result = task._step(given, "val")
    each = result.each
    assert torch.allclose(each["kl"], posterior.kl().sum(1))
    assert torch.allclose(each["loss"], each["reconstruction"] + each["kl"])
    assert each["n"].tolist() == [4, 2, 9, 3] and result.n == 18
    assert "bound" not in each  # one code is no bound beside the ELBO
    noise = task._noise(given["numbers"], posterior)
    logits = task.head.logits(task.model.decode(given["target"], posterior.code(noise)[0])).log_softmax(-1)
    real = given["labels"] != IGNORED
    nll = -logits.gather(2, given["labels"].clamp(min=0)[..., None])[..., 0] * real
    assert torch.allclose(each["reconstruction"], nll.sum(1))
    assert torch.equal(each["correct"], ((logits.argmax(2) == given["labels"]) & real).sum(1).float())
    metrics = task.metrics()
    for metric in metrics:
        metric.update({"loss": result.loss, "n": result.n, **result.sums})
    found = figures(metrics)
    assert found["loss"] == pytest.approx(float(each["loss"].sum()) / 18)
    assert found["elbo"] == pytest.approx(-float(each["loss"].sum()) / 4)
    assert found["reconstruction_nll_per_token"] == pytest.approx(float(nll.sum()) / 18)
    assert found["kl"] == pytest.approx(float(each["kl"].sum()) / 4)
    assert found["active_units"] == int((posterior.mean.var(0, correction=0) > 0.01).sum())
    assert "iw_nll" not in found


@pytest.mark.parametrize("cutoffs", [None, [20]])
def test_the_batch_changes_nothing(monkeypatch, cutoffs):
    task = make(head_cutoffs=cutoffs)
    task.samples = 7
    together = task._step(batch(task), "val").each
    monkeypatch.setattr(reconstruction, "AT_ONCE", 3)  # codes of a text in several goes
    alone = [task._step(batch(task, [text], number), "val").each for number, text in enumerate(TEXTS)]
    for name, value in together.items():
        assert torch.allclose(value, torch.cat([each[name] for each in alone])), name


def test_a_code_of_nothing_is_a_language_model_whose_bound_is_exact():
    task = make(d_code=0)
    task.samples = 50
    each = task._step(batch(task), "val").each
    assert torch.allclose(each["bound"], each["reconstruction"]) and not each["kl"].any()
    assert "active_units" not in {metric.name for metric in task.metrics()}


def test_an_autoencoder_has_no_kl_and_no_bound():
    task = make(Autoencoder)
    task.samples = 50
    result = task._step(batch(task), "val")
    assert result.each.keys() == {"loss", "n", "texts", "reconstruction", "correct"}
    assert torch.equal(result.each["loss"], result.each["reconstruction"])
    trained, scored = (task._step(batch(task), stage).loss for stage in ("train", "val"))
    assert torch.allclose(trained, scored)


def learn(task, progress=1.0):
    task.progress = lambda step: progress
    torch.manual_seed(3)
    return task._step(batch(task), "train")


def test_annealing_weighs_the_kl_term_by_the_share_of_the_budget():
    task = make(kl=anneal(0.2, 0.6))
    posterior = task.model.encode(batch(task)["ids"], batch(task)["mask"])
    kl = posterior.kl().sum().item()
    nothing, half, whole = (learn(task, progress).loss.item() for progress in (0.1, 0.4, 0.9))
    assert half - nothing == pytest.approx(kl / 2) and whole - nothing == pytest.approx(kl)


def test_free_bits_cost_nothing():
    task = make()
    kl = task.model.encode(batch(task)["ids"], batch(task)["mask"]).kl()  # (B, Z)
    low, high = kl.mean(0).sort().values.tolist()
    whole = learn(task).loss.item()
    task.free_bits = (low + high) / 2  # above the one dimension and below the other
    assert learn(task).loss.item() - whole == pytest.approx(4 * (task.free_bits - low))
    task.free_bits = 2 * high
    result = learn(task)
    result.loss.backward()
    free = [weight.grad.clone() for weight in task.model.parameters()]
    task.zero_grad()
    task.free_bits, task.kl = 0.0, anneal(1.0, 1.0)  # no KL term at all: the same gradients
    learn(task, 0.5).loss.backward()
    for before, weight in zip(free, task.model.parameters(), strict=True):
        assert torch.allclose(before, weight.grad)


def test_noise_is_for_training_alone(monkeypatch):
    task = make(Autoencoder)
    seen = []
    encode, decode = task.model.encode, task.model.decode
    monkeypatch.setattr(task.model, "encode", lambda ids, mask: (seen.append(ids), encode(ids, mask))[1])
    monkeypatch.setattr(task.model, "decode", lambda ids, code: (seen.append(ids), decode(ids, code))[1])
    given = batch(task)
    for changes, place in (({"drop": 0.5}, 0), ({"shuffle": 3}, 0), ({"word_dropout": 0.5}, 1)):
        for name in ("drop", "shuffle", "word_dropout"):
            setattr(task, name, changes.get(name, 0))
        seen.clear()
        learn(task)
        task._step(given, "val")
        whole = [given["ids"], given["target"]]
        assert [torch.equal(a, b) for a, b in zip(seen[:2], whole, strict=True)] == [place != 0, place != 1]
        assert torch.equal(seen[2], whole[0]) and torch.equal(seen[3], whole[1])
    assert (seen[1] == MASK).any() and bool((seen[1][:, 0] == BOS).all())


def test_active_units_vary():
    metric = ActiveUnits(d_code=3)
    means = torch.tensor([[0.0, 5.0, 1.0], [0.0, 5.05, -1.0], [0.05, 5.0, 1.0]])
    for row in means:
        metric.update({"means": row, "mean_squares": row**2, "texts": 1})
    assert metric.compute() == 1
    metric.update(
        {"means": torch.tensor([0.0, 4.5, 0.0]), "mean_squares": torch.tensor([0.0, 4.5**2, 0.0]), "texts": 1}
    )
    assert metric.compute() == 2


# -- texts from codes ----------------------------------------------------------------------------------------------


def written(task, model, prompts, strategy=GREEDY, **options):
    found = generate(model, CHARS, prompts, strategy=strategy, max_new_tokens=6, seed=1, **options)
    return [each.text for each in found]


def test_every_strategy_writes_and_no_batch_changes_a_text():
    task = make().float()
    assert isinstance(task, CodeModel)
    together = written(task, task, TEXTS)
    assert together == [written(task, task, [text])[0] for text in TEXTS]
    assert len(set(together)) > 1
    beam = Beam(beams=1, n_best=1, length_penalty="average", alpha=0.0, early_stopping=False)
    assert written(task, task, TEXTS, beam) == together


def test_the_ends_of_a_way_are_the_texts_themselves():
    task = make().float()
    ids = [CHARS.encode(text) for text in ("abc", "h")]
    way = between(task, ids, 5)
    found = written(task, way, way.prompts)
    assert len(found) == 5 and [found[0], found[-1]] == written(task, task, ["abc", "h"])
    first, last = task.codes(ids)
    assert torch.allclose(way._codes[1], 0.75 * first + 0.25 * last)


def test_codes_are_drawn_by_the_seed_whatever_their_number():
    task = make().float()
    five, two, others = drawn(task, 5, seed=1), drawn(task, 2, seed=1), drawn(task, 5, seed=100)
    assert torch.equal(five._codes[:2], two._codes) and not torch.equal(five._codes, others._codes)
    assert len(set(map(tuple, five._codes.tolist()))) == 5
    assert written(task, five, five.prompts)[:2] == written(task, two, two.prompts)
    many = torch.cat([drawn(task, 400, seed=1)._codes])
    assert many.mean(0).abs().max() < 0.15 and (many.std(0) - 1).abs().max() < 0.15


def test_codes_are_answered():
    task = make().float()
    found = task.predict(TEXTS, CHARS, top=1)
    posterior = task.model.encode(batch(task)["ids"], batch(task)["mask"])
    assert [each["text"] for each in found] == TEXTS
    assert torch.allclose(torch.tensor([each["code"] for each in found]), posterior.mean)
    assert torch.allclose(torch.tensor([each["log_variance"] for each in found]), posterior.log_variance)
    assert "log_variance" not in make(Autoencoder).float().predict(["abc"], CHARS, top=1)[0]


def test_mistakes():
    task, plain = make().float(), make(Autoencoder).float()
    for ask in (task.predict, lambda texts, *_, **__: task.bind([CHARS.encode(text) for text in texts])):
        with pytest.raises(InputError, match="text 2 is empty"):
            ask(["a", ""], CHARS, top=1)
    with pytest.raises(InputError, match="writes texts again"):
        drawn(plain, 1, seed=1)
    with pytest.raises(InputError, match="interpolate=7 goes from one text to another; there is 1"):
        between(task, [[1]], 7)
    with pytest.raises(InputError, match=r"interpolate \(1\) must be at least 2"):
        between(task, [[20], [21]], 1)
    for changes, message in (
        ({"drop": 1.0}, r"task.drop \(1.0\)"),
        ({"shuffle": -1}, r"task.shuffle \(-1\)"),
        ({"free_bits": math.inf}, r"task.free_bits \(inf\)"),
        ({"bos_id": None}, "ids for the beginning and the end"),
        ({"word_dropout": 0.5, "mask_id": None}, "word_dropout hides"),
        ({"causal": False}, "task.causal=true"),
    ):
        with pytest.raises(InputError, match=message):
            make(**changes)


def test_a_small_variance_far_from_zero_is_measured(monkeypatch):
    task = make().float()
    means = 1000 + 0.2 * torch.randn(4, 2)
    monkeypatch.setattr(task.model, "encode", lambda source, mask: Posterior(means, torch.zeros(4, 2)))
    sums = task._step(batch(task), "val").sums
    found = sums["mean_squares"] / 4 - (sums["means"] / 4) ** 2
    assert found.tolist() == pytest.approx(means.double().var(0, correction=0).tolist(), rel=1e-4)
