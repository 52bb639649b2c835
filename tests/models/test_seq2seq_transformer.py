"""Parity with torch.nn.Transformer, and the options of model=seq2seq_transformer."""

import math

import pytest
import torch
from torch import nn

from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead
from llmcli.layers.source_cache import SourceCache
from llmcli.models.seq2seq_transformer import Seq2SeqTransformer

V, S, T, B, D = 23, 8, 6, 3, 16
SETTINGS = {
    "vocab_size": V, "max_seq_len": 12, "d_model": D, "n_encoder_layers": 2, "n_decoder_layers": 3, "n_heads": 4,
    "d_ff": 24, "norm": "pre", "positions": "sinusoidal", "share_embeddings": True, "tie_embeddings": True,
    "dropout": 0.0,
}  # fmt: skip


def make(**changes):
    torch.manual_seed(0)
    return Seq2SeqTransformer(**{**SETTINGS, **changes})


def copy_attention(ours, theirs):
    theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
    theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
    theirs.out_proj.load_state_dict(ours.out.state_dict())


def copy_block(ours, theirs):
    copy_attention(ours.self_attention, theirs.self_attn)
    norms = [ours.self_attention_norm, ours.feed_forward_norm]
    if hasattr(ours, "source_attention"):
        copy_attention(ours.source_attention, theirs.multihead_attn)
        norms.insert(1, ours.source_attention_norm)
    for number, norm in enumerate(norms, start=1):
        getattr(theirs, f"norm{number}").load_state_dict(norm.state_dict())
    theirs.linear1.load_state_dict(ours.up.state_dict())
    theirs.linear2.load_state_dict(ours.down.state_dict())


@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_parity_with_torch(norm):
    ours = make(norm=norm).double().eval()
    for weight in ours.parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    sizes = {"nhead": 4, "dim_feedforward": 24, "dropout": 0.0, "norm_first": norm == "pre", "batch_first": True}
    last = [nn.LayerNorm(D) if norm == "pre" else None for _ in range(2)]  # none in the paper, where norms come after
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(D, **sizes), 2, last[0], enable_nested_tensor=False)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(D, **sizes), 3, last[1])
    theirs = nn.Transformer(D, 4, custom_encoder=encoder, custom_decoder=decoder, batch_first=True).double().eval()
    if norm == "pre":
        encoder.norm.load_state_dict(ours.encoder_norm.state_dict())
        decoder.norm.load_state_dict(ours.decoder_norm.state_dict())
    blocks = zip([*ours.encoder, *ours.decoder], [*encoder.layers, *decoder.layers], strict=True)
    for mine, other in blocks:
        copy_block(mine, other)
    source, target = torch.randint(0, V, (B, S)), torch.randint(0, V, (B, T))
    mask = torch.arange(S) < torch.tensor([S, 5, 2])[:, None]
    place = torch.arange(12.0)[:, None].double() / 10000 ** (torch.arange(0, D, 2).double() / D)
    table = torch.zeros(12, D, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = place.sin(), place.cos()
    x, y = (ours.input_embedding(ids) * math.sqrt(D) + table[: ids.shape[1]] for ids in (source, target))
    expected = theirs(
        x,
        y,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(T, dtype=torch.float64),
        src_key_padding_mask=~mask,
        memory_key_padding_mask=~mask,
        tgt_is_causal=True,
    )
    torch.testing.assert_close(ours(source, mask, target), expected, rtol=0, atol=1e-5)
    hidden, _ = ours.step(target, ours.init_state(ours.encode(source, mask), T))
    torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


def test_tables_are_shared_as_asked():
    shared, apart = make(), make(share_embeddings=False)
    assert shared.input_embedding is shared.target_embedding
    assert apart.input_embedding is not apart.target_embedding
    count = [sum(p.numel() for p in model.parameters()) for model in (shared, apart, make(positions="learned"))]
    assert count[1] - count[0] == V * D and count[2] - count[0] == 2 * 12 * D
    head = LanguageModelHead(
        d_model=D, vocab_size=V, embedding=apart.target_embedding, bias=False, softcap=None, label_smoothing=0.0
    )
    assert head.weight is apart.target_embedding.weight


@torch.no_grad()
def test_order_matters_with_either_kind_of_positions():
    source, target = torch.randint(0, V, (B, S)), torch.randint(0, V, (B, T))
    for positions in ("sinusoidal", "learned"):
        model = make(positions=positions).eval()
        assert not torch.allclose(model(source, None, target), model(source.flip(1), None, target), atol=1e-4)


def test_dropout_acts_in_training_alone():
    model = make(dropout=0.5)
    source, target = torch.randint(0, V, (B, S)), torch.randint(0, V, (B, T))
    assert not torch.equal(model(source, None, target), model(source, None, target))
    model.eval()
    assert torch.equal(model(source, None, target), model(source, None, target))


def test_rows_of_one_source_share_its_keys():
    keys = torch.randn(2, 4, 5, 4)
    cache = SourceCache([keys], [keys], None)
    expanded = cache.reorder(torch.tensor([0, 0, 0, 1, 1, 1]))
    assert expanded.rows_each == 3 and expanded.keys[0] is keys
    assert expanded.reorder(torch.tensor([2, 0, 1, 5, 5, 5])).keys[0] is keys
    assert expanded.reorder(torch.tensor([4, 5, 3])).keys[0].shape[0] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 3}, r"model.d_model \(16\) must be divisible by model.n_heads \(3\)"),
        ({"d_model": 15, "n_heads": 3}, r"model.d_model \(15\) must be even for sinusoidal positions"),
        ({"norm": "rms"}, r"model.norm \(rms\) must be one of pre, post"),
        ({"positions": "rotary"}, r"model.positions \(rotary\) must be one of sinusoidal, learned"),
        ({"dropout": 1.0}, "dropout"),
        ({"d_ff": 0}, r"d_ff \(0\) must be at least 1"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make(**changes)
