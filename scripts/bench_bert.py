"""A training step of masked language modelling beside transformers' BertForMaskedLM of the same shape.

    OMP_NUM_THREADS=1 python scripts/bench_bert.py [--rounds 6]

Forward and backward of 16 windows of 128 tokens, 15% of them hidden, on one CPU core: 4 layers, 256 wide, 8,192 ids.
Both in turns; the median of the rounds in milliseconds of processor time. Needs transformers.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from transformers import BertConfig, BertForMaskedLM

from llmcli.models.bert import BERT
from llmcli.tasks.masked_lm import MaskedLM

VOCAB, LENGTH, ROWS, LAYERS, WIDTH, HEADS, HIDDEN = 8192, 128, 16, 4, 256, 4, 19  # tokens hidden of a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    ids = torch.randint(16, VOCAB, (ROWS, LENGTH))
    places = torch.cat([row * LENGTH + torch.randperm(LENGTH)[:HIDDEN] for row in range(ROWS)])
    targets, shown = ids.flatten()[places], ids.flatten().index_fill(0, places, 4).view_as(ids)
    labels = torch.full((ROWS * LENGTH,), -100).index_copy(0, places, targets).view_as(ids)
    batch = {"ids": shown, "places": places, "targets": targets, "n_tokens": len(places), "n_ids": ids.numel()}
    for dropout in (0.0, 0.1):
        task, reference = ours(dropout).train(), theirs(dropout).train()
        for bfloat16 in (False, True):
            steps = {
                "llm": lambda task=task: task._step(batch, "train").loss / len(places),
                "transformers": lambda model=reference: model(shown, labels=labels).loss,
            }
            times = {name: [] for name in steps}
            for _ in range(rounds + 1):
                for name, loss in steps.items():
                    began = time.process_time()
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
                        loss().backward()
                    times[name].append(1000 * (time.process_time() - began))
            shape = f"dropout {dropout}  {'bfloat16' if bfloat16 else 'float32 '}"
            print(
                shape, *(f"  {name} {statistics.median(each[1:]):.0f} ms" for name, each in times.items()), flush=True
            )


def ours(dropout):
    model = BERT(
        vocab_size=VOCAB, max_seq_len=LENGTH, causal=False, sep_id=6, n_types=2, d_embed=None, d_model=WIDTH,
        n_layers=LAYERS, n_heads=HEADS, d_ff=None, dropout=dropout,
    )  # fmt: skip
    return MaskedLM(model=model, causal=False, rate=0.15, random=0.1, kept=0.1, unit="token", marks=True)


def theirs(dropout):
    config = BertConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH, max_position_embeddings=LENGTH, attn_implementation="sdpa",
        hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForMaskedLM(config)


if __name__ == "__main__":
    main()
