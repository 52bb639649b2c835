"""Beam search beside transformers' `generate`, and batches of mixed lengths beside batches of equal ones.

    OMP_NUM_THREADS=1 python scripts/bench_decoding.py [--rounds 5] [--bfloat16]

One CPU core, random weights, no end of text, so that both sides write the same number of tokens. Sides take turns; the
median of the rounds, in seconds of processor time. Needs transformers.

Tied weights as they begin make every text repeat its first token, so that no two beams of a row have anything in common
after it, which they have in a trained model. So all weights of both sides are disturbed; --as-they-begin leaves them.

beam    sentences/s: beam 5, 32 sources of 24 tokens, 32 new tokens; the shape of model=seq2seq_transformer with the
        4,096 ids of tokenizer=bpe; beside a Marian model of the same layers, width, heads and vocabulary
mixed   128 sources of 4 to 44 tokens whose texts are as long as they are, beside 128 of the mean length: the same
        tokens in all, beam 5 and greedy
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping

import torch
from omegaconf import OmegaConf
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from llmcli.config import build, config_dir
from llmcli.decoding.base import StepOutput
from llmcli.decoding.generate import generate
from llmcli.inference import prepare_for_generation
from llmcli.models.base import State
from llmcli.tasks.sequence_to_sequence import SequenceToSequence
from llmcli.tokenizers.base import RESERVED
from llmcli.tokenizers.char import CharTokenizer

VOCAB, LAYERS, WIDTH, HEADS, LONGEST = 4096, 3, 256, 4, 128
BEAMS, ROWS, SOURCE, NEW = 5, 32, 24, 32
BOS, EOS = 2, 3
CHARACTERS = CharTokenizer("".join(chr(0x4E00 + number) for number in range(VOCAB - len(RESERVED))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["beam", "mixed", []], default=["beam", "mixed"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bfloat16", action="store_true", help="weights of both sides")
    parser.add_argument("--as-they-begin", action="store_true", help="tied weights that are not disturbed")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if arguments.bfloat16 else torch.float32
    task, reference = (side.to(dtype).eval() for side in (ours(), theirs()))
    if not arguments.as_they_begin:
        for weight in (*task.parameters(), *reference.parameters()):
            weight.data.add_(0.1 * torch.randn_like(weight))
    prepare_for_generation(task, dtype)
    if "beam" in arguments.what:
        sources = torch.randint(16, VOCAB, (ROWS, SOURCE))
        listed = sources.tolist()
        strategy = decoding("beam", beams=BEAMS)
        with_end = torch.cat((sources, torch.full((ROWS, 1), EOS)), 1)  # what ours reads too

        def llm() -> object:
            return search(task, listed, strategy, NEW)

        def transformers() -> Tensor:
            return reference.generate(
                with_end, attention_mask=torch.ones_like(with_end), num_beams=BEAMS, max_new_tokens=NEW,
                early_stopping=False, do_sample=False,
            )  # fmt: skip

        assert transformers().shape == (ROWS, 1 + NEW)
        times = in_turns({"llm": llm, "transformers": transformers}, arguments.rounds)
        for name, seconds in times.items():
            print(f"beam {BEAMS}, batch {ROWS}: {name:<13} {ROWS / seconds:.2f} sentences/s ({seconds:.2f} s)")
        print(f"beam {BEAMS}, batch {ROWS}: llm is {times['transformers'] / times['llm']:.2f} times as fast")
    if "mixed" in arguments.what:
        lengths = [4 + 40 * row // 127 for row in range(128)]
        mean = sum(lengths) // len(lengths)
        for name, options in (("beam", {"beams": BEAMS}), ("greedy", {})):
            strategy = decoding(name, **options)
            ending = EndsLikeItsSource(task)

            def mixed(strategy: object = strategy, ending: EndsLikeItsSource = ending) -> object:
                return write(ending, lengths, strategy)

            def equal(strategy: object = strategy, ending: EndsLikeItsSource = ending) -> object:
                return write(ending, [mean] * len(lengths), strategy)

            times = in_turns({"mixed": mixed, "equal": equal}, arguments.rounds)
            print(f"{name}: mixed lengths {times['mixed']:.2f} s, equal {times['equal']:.2f} s, "
                  f"{times['mixed'] / times['equal']:.2f} times the time")  # fmt: skip


def ours() -> SequenceToSequence:
    config = OmegaConf.load(config_dir() / "model" / "seq2seq_transformer.yaml")
    config.pop("defaults")
    shape = {"vocab_size": VOCAB, "source_vocab_size": None, "max_seq_len": LONGEST, "d_model": WIDTH, "n_heads": HEADS}
    layers = {"n_encoder_layers": LAYERS, "n_decoder_layers": LAYERS}
    model = build(OmegaConf.merge(config, shape, layers))
    return SequenceToSequence(model=model, causal=True, bos_id=BOS, eos_id=EOS, label_smoothing=0.0)


def theirs() -> MarianMTModel:
    shape = {"encoder_layers": LAYERS, "decoder_layers": LAYERS, "d_model": WIDTH, "max_position_embeddings": LONGEST}
    shape |= {f"{side}_ffn_dim": 4 * WIDTH for side in ("encoder", "decoder")}
    shape |= {f"{side}_attention_heads": HEADS for side in ("encoder", "decoder")}
    ids = {"pad_token_id": 0, "bos_token_id": BOS, "decoder_start_token_id": BOS, "eos_token_id": None}
    config = MarianConfig(vocab_size=VOCAB, activation_function="relu", scale_embedding=True, **shape, **ids)
    config.forced_eos_token_id = None
    model = MarianMTModel(config)
    model.generation_config.forced_eos_token_id = model.generation_config.eos_token_id = None
    return model


def decoding(name: str, **options: object) -> object:
    return build(OmegaConf.merge(OmegaConf.load(config_dir() / "decoding" / f"{name}.yaml"), options))


def search(task: SequenceToSequence, sources: list[list[int]], strategy: object, new: int) -> object:
    with torch.inference_mode():
        bound = task.bind(sources)
        return strategy.search(bound, bound.starts, end_ids=frozenset(), max_new_tokens=new, seeds=[0] * len(sources))


class EndsLikeItsSource:
    """The task, whose texts are as long as their sources: the end is certain there, and impossible before.

    `generate` sees a model that reads sources, as ever.
    """

    def __init__(self, task: SequenceToSequence) -> None:
        self.task = task

    def check_sources(self, sources: list[list[int]]) -> None:
        self.task.check_sources(sources)

    def bind(self, sources: list[list[int]]) -> EndsLikeItsSource.Bound:
        return self.Bound(self.task.bind(sources), [len(source) for source in sources])

    class Bound:
        def __init__(self, bound, lengths: list[int]) -> None:
            self.bound, self.due = bound, torch.tensor(lengths)
            self.vocab_size, self.max_seq_len, self.starts = bound.vocab_size, bound.max_seq_len, bound.starts
            self.device = bound.device

        def init_state(self, batch_size: int, capacity: int) -> Due:
            return Due(self.bound.init_state(batch_size, capacity), self.due)

        def step(self, ids: Tensor, state: Due, lengths: Tensor | None = None, *, last_only: bool = False):
            out = self.bound.step(ids, state.inner, lengths, last_only=last_only)
            over = out.state.lengths > state.due
            out.logits[:, -1, EOS] = torch.where(over, 1e9, -torch.inf)
            return StepOutput(out.logits, out.hidden, out.attention, Due(out.state, state.due))


class Due(State):
    def __init__(self, inner: State, due: Tensor) -> None:
        self.inner, self.due = inner, due

    def reorder(self, index: Tensor) -> Due:
        return Due(self.inner.reorder(index), self.due[index])

    truncate = clone = detach = None


def write(model: EndsLikeItsSource, lengths: list[int], strategy: object) -> object:
    generator = torch.Generator().manual_seed(1)
    sources = [torch.randint(16, VOCAB, (length,), generator=generator).tolist() for length in lengths]
    with torch.inference_mode():
        found = generate(model, CHARACTERS, sources, strategy=strategy, max_new_tokens=LONGEST, seed=0)
    assert [len(each.ids) for each in found] == [length + 1 for length in lengths]
    return found


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of processor time of each side, which are called in turns; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            began = time.process_time()
            side()
            times[name].append(time.process_time() - began)
    return {name: statistics.median(each[1:]) for name, each in times.items()}


if __name__ == "__main__":
    main()
