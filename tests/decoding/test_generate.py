import pytest
import torch
from toy import ToyModel, penalties

from llmcli.decoding.base import StepOutput
from llmcli.decoding.generate import generate
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.sample import Sample
from llmcli.errors import InputError
from llmcli.tokenizers.byte import ByteTokenizer
from llmcli.tokenizers.char import CharTokenizer

GREEDY = Greedy(penalties=penalties())
SAMPLE = Sample(temperature=1.0, top_k=None, top_p=None, min_p=None, typical_p=None, penalties=penalties())
CHARS = CharTokenizer("abcdefgh ")


class Scripted(ToyModel):
    """Continues the script wherever the context ends: logits favour the character after the context's last."""

    def __init__(self, script, tokenizer, max_seq_len=None):
        super().__init__(tokenizer.vocab_size, max_seq_len)
        self.script = script

    def step(self, ids, state, lengths=None, *, last_only=False):
        out = super().step(ids, state, lengths, last_only=last_only)
        places = out.state.lengths - 1
        logits = torch.full((len(ids), 1, self.vocab_size), -20.0)
        for row, place in enumerate(places.tolist()):
            logits[row, 0, self.script[min(place, len(self.script) - 1)]] = 0.0
        return StepOutput(logits, out.hidden, None, out.state)


def run(model, tokenizer, prompts, *, strategy=GREEDY, max_new_tokens=20, seed=0, **settings):
    return generate(model, tokenizer, prompts, strategy=strategy, max_new_tokens=max_new_tokens, seed=seed, **settings)


def test_text_ids_and_logprobs_belong_together():
    model = ToyModel(CHARS.vocab_size)
    (result,) = run(model, CHARS, ["ab"], strategy=SAMPLE)
    assert result.text == CHARS.decode(result.ids)
    assert len(result.ids) == len(result.logprobs) <= 20
    context = CHARS.encode("ab")
    for index, logprob in zip(result.ids, result.logprobs, strict=True):
        assert logprob == pytest.approx(float(model.logits(context).log_softmax(-1)[index]), abs=1e-5)
        context.append(index)


def test_the_three_ways_to_finish():
    tokenizer = ByteTokenizer()
    script = [*tokenizer.encode("good day END more"), tokenizer.eos_id]
    model = Scripted(script, tokenizer)
    ended, stopped, cut_off = (
        run(model, tokenizer, [[tokenizer.eos_id]], max_new_tokens=40)[0],
        run(model, tokenizer, [[tokenizer.eos_id]], max_new_tokens=40, stop=["END"])[0],
        run(model, tokenizer, [[tokenizer.eos_id]], max_new_tokens=4)[0],
    )
    assert (ended.text, ended.finish_reason, ended.ids) == ("good day END more", "end", script)
    assert (stopped.text, stopped.finish_reason) == ("good day ", "stop")
    assert tokenizer.decode(stopped.ids) == "good day END"
    assert (cut_off.text, cut_off.finish_reason) == ("good", "length")


def test_work_ends_with_the_last_row():
    tokenizer = ByteTokenizer()
    model = Scripted(tokenizer.encode("ab" * 50), tokenizer)
    run(model, tokenizer, ["x", "yy"], max_new_tokens=90, stop=["ba"])
    assert len(model.calls) <= 4


def test_an_unfinished_end_is_shown_at_the_end():
    tokenizer = ByteTokenizer()
    model = Scripted(tokenizer.encode("ok 😀"), tokenizer)
    shown = []
    (result,) = run(model, tokenizer, [""], max_new_tokens=5, on_text=lambda row, text: shown.append(text))
    assert result.text == "ok \ufffd" == "".join(shown)
    assert shown == ["o", "k", " ", "\ufffd"]


def test_samples_of_a_prompt_stand_together_and_stream_by_row():
    model = ToyModel(CHARS.vocab_size)
    shown = {}
    results = run(
        model,
        CHARS,
        ["ab", "c"],
        strategy=SAMPLE,
        num_samples=3,
        on_text=lambda row, text: shown.update({row: shown.get(row, "") + text}),
    )
    assert [result.prompt for result in results] == ["ab"] * 3 + ["c"] * 3
    assert len({tuple(result.ids) for result in results[:3]}) == 3
    assert [shown.get(row, "") for row in range(6)] == [result.text for result in results]


def test_a_seed_repeats_the_texts():
    model = ToyModel(CHARS.vocab_size)
    first = run(model, CHARS, ["ab", "c"], strategy=SAMPLE, seed=3)
    assert run(model, CHARS, ["ab", "c"], strategy=SAMPLE, seed=3) == first
    assert run(model, CHARS, ["ab", "c"], strategy=SAMPLE, seed=4) != first
    assert run(model, CHARS, ["ab"], strategy=SAMPLE, seed=3) == first[:1]


def test_an_empty_prompt_starts_a_document():
    model = ToyModel(CHARS.vocab_size)
    assert run(model, CHARS, [""])[0].ids == run(model, CHARS, [[CHARS.eos_id]])[0].ids


def test_without_an_end_id_the_document_starts_with_bos_or_cannot_start():
    class Bare(CharTokenizer):
        eos_id = None

    tokenizer = Bare("abc")
    model = ToyModel(tokenizer.vocab_size)
    assert run(model, tokenizer, [""])[0].ids == run(model, tokenizer, [[tokenizer.bos_id]])[0].ids
    tokenizer.bos_id = None
    with pytest.raises(InputError, match="no id that starts a document"):
        run(model, tokenizer, [""])


def test_characters_the_model_does_not_know_are_named_with_their_place():
    model = ToyModel(CHARS.vocab_size)
    with pytest.raises(InputError, match=r"the vocabulary lacks: 'Z' at 2, '9' at 4$"):
        run(model, CHARS, ["abZ 9Z"])
    replaced = run(model, CHARS, ["abZ"], unknown="replace")
    assert replaced[0].ids == run(model, CHARS, [[*CHARS.encode("ab"), CHARS.unk_id]])[0].ids


def test_a_prompt_beyond_the_window_is_counted():
    model = ToyModel(CHARS.vocab_size, max_seq_len=8)
    results = run(model, CHARS, ["abcdefgh", "abcdefghabcd"])
    assert [result.prompt_dropped for result in results] == [0, 6]


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([], {}, "there is no prompt"),
        (["a"], {"num_samples": 0}, r"num_samples \(0\) must be at least 1"),
        (["a"], {"max_new_tokens": 0}, r"max_new_tokens \(0\) must be at least 1"),
        (["a"], {"stop": [""]}, "a stop string is empty"),
    ],
)
def test_impossible_requests_are_refused(prompts, settings, message):
    with pytest.raises(InputError, match=message):
        run(ToyModel(CHARS.vocab_size), CHARS, prompts, **settings)
