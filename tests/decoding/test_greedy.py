import pytest
import torch
from toy import ToyModel, penalties

from llmcli.decoding.greedy import Greedy
from llmcli.decoding.loop import kept_tokens
from llmcli.decoding.penalties import penalise
from llmcli.errors import InputError, LLMError

PROMPTS = [[1, 2, 3], [4], [5, 6, 7, 8, 9, 1, 2], [3, 3]]


def decode(model, prompts, *, max_new_tokens, end_ids=(), repetition=1.0):
    steps = Greedy(penalties=penalties(repetition)).decode(
        model,
        prompts,
        end_ids=frozenset(end_ids),
        max_new_tokens=max_new_tokens,
        seeds=[0] * len(prompts),
    )
    return list(steps)


def rows(steps):
    return [[i for i in row if i is not None] for row in zip(*(step.ids for step in steps), strict=True)]


def uncached(model, prompt, count, penalty=1.0):
    """Argmax of a full recomputation for each token; past the window, its last three quarters at each slide."""
    text, start, logprobs = list(prompt), 0, []
    for _ in range(count):
        if model.max_seq_len is not None and len(text) - start > model.max_seq_len:
            start = len(text) - model.max_seq_len * 3 // 4
        logits = model.logits(text[start:])
        seen = torch.zeros(model.vocab_size, dtype=torch.bool)
        seen[text] = True
        chosen = int(penalise(logits, seen, penalty).argmax())
        logprobs.append(float(logits.log_softmax(-1)[chosen]))
        text.append(chosen)
    return text[len(prompt) :], logprobs


@pytest.mark.parametrize("window", [None, 8, 12, 64])
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_equals_argmax_of_full_recomputation_also_past_the_window(window, penalty):
    model = ToyModel(max_seq_len=window)
    steps = decode(model, PROMPTS, max_new_tokens=50, repetition=penalty)
    expected = [uncached(model, prompt, 50, penalty) for prompt in PROMPTS]
    assert rows(steps) == [ids for ids, _ in expected]
    for row, (_, logprobs) in enumerate(expected):
        assert [step.logprobs[row] for step in steps] == pytest.approx(logprobs, abs=1e-5)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_the_smallest_windows_work(window):
    model = ToyModel(max_seq_len=window)
    assert len(decode(model, [[1], [2, 3, 4, 5]], max_new_tokens=9)) == 9


def test_a_prompt_longer_than_the_window_keeps_its_last_tokens():
    model = ToyModel(max_seq_len=8)
    prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    kept = kept_tokens(len(prompt), 8)
    assert kept == 6
    assert rows(decode(model, [prompt], max_new_tokens=20)) == rows(decode(model, [prompt[-kept:]], max_new_tokens=20))


def test_past_the_window_a_token_costs_the_same_however_long_the_text():
    model = ToyModel(max_seq_len=16)
    decode(model, [[1, 2]], max_new_tokens=400)
    read = sum(length for _, length in model.calls)
    slides = sum(length > 1 for _, length in model.calls) - 1
    assert slides == pytest.approx(400 / 5, rel=0.05)  # 12 kept, so one slide for each 5 tokens
    assert read < 400 * 4


def test_a_row_ends_with_its_end_id_and_the_others_go_on():
    model = ToyModel()
    free = rows(decode(model, PROMPTS, max_new_tokens=30))
    end = free[0][3]
    steps = decode(model, PROMPTS, max_new_tokens=30, end_ids=[end])
    expected = [ids[: ids.index(end) + 1] if end in ids else ids for ids in free]
    assert rows(steps) == expected
    assert len(steps) == max(map(len, expected))
    for step in steps:
        assert len(step.ids) == len(step.logprobs) == len(PROMPTS)


@pytest.mark.parametrize("window", [None, 8])
def test_ended_rows_change_nothing_for_the_rest(window):
    model = ToyModel(max_seq_len=window)
    end = rows(decode(model, [[4]], max_new_tokens=3))[0][0]
    both = rows(decode(model, [[4], [1, 2, 3]], max_new_tokens=40, end_ids=[end]))
    alone = rows(decode(model, [[1, 2, 3]], max_new_tokens=40, end_ids=[end]))
    assert both == [[end], alone[0]]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens():
    logits = torch.tensor([[2.0, -2.0, 3.0, -3.0]])
    seen = torch.tensor([[True, True, False, False]])
    assert penalise(logits, seen, 2.0).tolist() == [[1.0, -4.0, 3.0, -3.0]]


@pytest.mark.parametrize(
    ("prompts", "max_new_tokens", "message"),
    [
        ([[1]], 0, r"max_new_tokens \(0\) must be at least 1"),
        ([[1], []], 5, "prompt 1 is empty"),
        ([[1], [11]], 5, "prompt 1 holds id 11, the model knows 0 to 10"),
        ([[-1]], 5, "prompt 0 holds id -1"),
    ],
)
def test_impossible_input_is_refused(prompts, max_new_tokens, message):
    with pytest.raises(InputError, match=message):
        decode(ToyModel(), prompts, max_new_tokens=max_new_tokens)


def test_logits_that_are_not_finite_stop_the_run():
    model = ToyModel()
    model.tables[:] = float("nan")
    with pytest.raises(LLMError, match="not finite"):
        decode(model, [[1]], max_new_tokens=5)
