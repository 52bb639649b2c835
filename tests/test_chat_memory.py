"""What a conversation costs: each turn reads what is new, whatever was said, forgotten or taken back before."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from llmcli.chat import Dialogue
from llmcli.data.chat_template import ChatTemplate
from llmcli.decoding.greedy import Greedy
from llmcli.decoding.lookup import Lookup
from llmcli.decoding.penalties import Penalties
from llmcli.decoding.speculative import Speculative
from llmcli.errors import InputError
from llmcli.tokenizers.char import CharTokenizer

sys.path.insert(0, str(Path(__file__).parent / "decoding"))
from toy import ToyModel

CHARS = CharTokenizer("abcdefgh ?")
OFF = Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0)
GREEDY = Greedy(penalties=OFF)
SAMPLER = {"temperature": 0.0, "top_k": None, "top_p": None, "min_p": None, "typical_p": None, "penalties": OFF}
RESERVED = OmegaConf.load(Path(__file__).parents[1] / "configs" / "template" / "reserved.yaml")
NO_SYSTEM = """
{%- for message in messages -%}
  {%- if message.role == 'system' -%}{{- raise_exception('this one has no system text') -}}{%- endif -%}
  {%- if message.role == 'user' -%}{{- '?' + message.content -}}
  {%- else -%}{%- generation -%}{{- message.content + eos_token -}}{%- endgeneration -%}{%- endif -%}
{%- endfor -%}
"""


class ToyTask(ToyModel):
    """Writes letters for ever, counts what it reads and how often it needs a state."""

    def __init__(self, window=None, text=RESERVED.template, marks=RESERVED.marks):
        super().__init__(CHARS.vocab_size, window, seed=3)
        self.template = ChatTemplate(text=text, marks=marks)
        self.states = 0

    def init_state(self, batch_size, capacity):
        self.states += 1
        return super().init_state(batch_size, capacity)

    def logits(self, context):
        return super().logits(context).index_fill(0, torch.arange(16), -9.0)

    def read(self):
        """Tokens since this was asked last."""
        tokens = sum(rows * columns for rows, columns in self.calls)
        self.calls.clear()
        return tokens


def dialogue(task, strategy=GREEDY, **settings):
    return Dialogue(task, CHARS, strategy=strategy, max_new_tokens=6, seed=1, **settings)


MESSAGES = ["abc", "dad a dad", "h?", "feed a bee"]


def test_a_turn_reads_its_message_and_its_answer():
    task = ToyTask()
    talk, marks = dialogue(task, system="be bad"), 4  # two ends and two roles, of the answer before and of the message
    talk.ask("a")
    task.read()
    for message in MESSAGES:
        answer = talk.ask(message)
        # the last token of an answer is read with the next message, and no longer its own
        assert task.read() == len(message) + marks + answer.tokens
        fresh = dialogue(ToyTask(), system="be bad").after(talk.turns[:-2]).ask(message)
        assert (fresh.text, fresh.reused) == (answer.text, 0)
    assert task.states == 1


@pytest.mark.parametrize("ways", ["lookup", "speculative"])
def test_guessing_ahead_says_the_same_and_remembers_too(ways):
    def strategy(task):
        if ways == "lookup":
            return Lookup(draft_tokens=3, ngram=1, **SAMPLER)
        made = Speculative(draft="it", draft_tokens=3, **SAMPLER)
        made.use(ToyTask())
        return made

    plain, task = dialogue(ToyTask()), ToyTask()
    guessing = dialogue(task, strategy(task))
    for message in MESSAGES:
        expected, answer = plain.ask(message), guessing.ask(message)
        assert (answer.text, answer.tokens) == (expected.text, expected.tokens)
        assert answer.reused >= expected.reused - 1 and (answer.reused > 0) == (message != MESSAGES[0])
    assert task.states == 1


def test_nothing_is_remembered_of_what_was_taken_back():
    task = ToyTask()
    talk = dialogue(task, system="be bad")
    for message in MESSAGES[:2]:
        talk.ask(message)
    talk.reset()
    answer = talk.ask("abc")
    assert (
        answer.reused == len("be bad") + 2 + len("abc") + 2
    )  # all but the last mark, which is read for what comes next
    assert answer.text == dialogue(ToyTask(), system="be bad").ask("abc").text
    talk.system = "be a cab"
    answer = talk.ask("abc")
    assert answer.reused == len("be ") + 1
    assert answer.text == dialogue(ToyTask(), system="be a cab").after(talk.turns[:-2]).ask("abc").text
    talk.system = None
    assert talk.ask("abc").reused == 0


def test_beyond_the_window_answers_are_those_of_what_is_left():
    task = ToyTask(window=40)
    talk = dialogue(task)
    forgotten = 0
    for number in range(12):
        message = MESSAGES[number % 4]
        first = talk._first
        answer = talk.ask(message)
        forgotten += answer.forgotten
        fresh = dialogue(ToyTask(window=40)).after(talk.turns[first:-2])
        assert fresh.ask(message).text == answer.text
        assert task.read() <= 40 + 6
    assert forgotten > 10
    assert task.states < 13


def test_a_system_text_is_refused_at_once_and_the_conversation_goes_on():
    task = ToyTask(text=NO_SYSTEM, marks={})
    with pytest.raises(InputError, match="this one has no system text"):
        dialogue(task, system="be bad")
    talk = dialogue(task)
    talk.ask("abc")
    with pytest.raises(InputError, match="this one has no system text"):
        talk.system = "be bad"
    assert talk.system is None and talk.ask("dad").reused > 0
    limited = dialogue(ToyTask(window=20), system="a")
    with pytest.raises(InputError, match=r"the system's text is too long: 36 tokens .* and the model sees 20"):
        limited.system = "a" * 31
    with pytest.raises(InputError, match="the vocabulary lacks 'X'"):
        limited.system = "X"
    assert limited.system == "a"
