"""What sets this transformer apart; what it shares with every backbone is in test_contract.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from llmcli.errors import InputError
from llmcli.heads import LanguageModelHead
from llmcli.layers.ngrams import NgramEmbedding
from llmcli.models.transformer import Transformer, rotary_table, rotate

VOCAB = 13
SMALL = {
    "vocab_size": VOCAB,
    "max_seq_len": 16,
    "causal": True,
    "d_model": 16,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": None,
    "d_ff": None,
    "activation": "relu2",
    "qk_norm": True,
    "rope_theta": 10000.0,
    "ngram_rows": [],
    "tie_embeddings": False,
    "logit_softcap": 15.0,
    "dropout": 0.0,
}


def build(**changes: object) -> Transformer:
    """Every weight random: zero-initialised branches would hide what they compute."""
    torch.manual_seed(0)
    model = Transformer(**{**SMALL, **changes}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def random_ids(rows: int = 3, length: int = 12, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_untrained_model_predicts_every_token_alike():
    model = Transformer(**SMALL)
    head = LanguageModelHead.for_backbone(model, label_smoothing=0.0)
    ids = random_ids()
    loss = F.cross_entropy(head.logits(model(ids)).flatten(0, 1), ids.flatten())
    assert loss.item() == pytest.approx(math.log(VOCAB))


def test_blocks_start_as_the_identity():
    states = Transformer(**SMALL).hidden_states(random_ids())
    torch.testing.assert_close(states[-1], states[0], rtol=1e-4, atol=1e-4)


def test_multi_head_attention_equals_torch():
    """With angles of 0 and without QK-norm, a block's attention is torch's."""
    model = build(qk_norm=False, n_layers=1)
    block = model.blocks[0]
    reference = torch.nn.MultiheadAttention(16, 4, bias=False, batch_first=True).eval()
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([block.q.weight, block.k.weight, block.v.weight]))
        reference.out_proj.weight.copy_(block.out.weight)
        block.down.weight.zero_()
        x = torch.randn(2, 7, 16)
        still = torch.ones(7, 2), torch.zeros(7, 2)
        h = F.rms_norm(x, (16,))
        hidden = torch.ones(7, 7, dtype=torch.bool).triu(1)
        expected = x + reference(h, h, h, attn_mask=hidden, need_weights=False)[0]
        torch.testing.assert_close(block(x, *still, None, True), expected, rtol=1e-5, atol=1e-5)


def test_rotation_scores_depend_on_distance_alone():
    cos, sin = rotary_table(32, 8, 10000.0)
    q, k = torch.randn(2, 1, 1, 1, 8)
    scores = [
        (rotate(q, cos[i : i + 1], sin[i : i + 1]) * rotate(k, cos[j : j + 1], sin[j : j + 1])).sum()
        for i, j in ((3, 1), (10, 8), (31, 29))
    ]
    torch.testing.assert_close(scores[1], scores[0])
    torch.testing.assert_close(scores[2], scores[0])


def test_grouped_keys_equal_repeated_heads():
    grouped, full = build(n_kv_heads=2), build()
    state = grouped.state_dict()
    for name in state:
        if name.endswith(("k.weight", "v.weight")):
            state[name] = state[name].unflatten(0, (2, 4)).repeat_interleave(2, 0).flatten(0, 1)
    full.load_state_dict(state)
    torch.testing.assert_close(grouped(random_ids()), full(random_ids()))


@pytest.mark.parametrize("change", [{"qk_norm": False}, {"activation": "gelu"}, {"rope_theta": 100.0}])
def test_options_change_the_function(change: dict[str, object]):
    assert not torch.allclose(build(**change)(random_ids()), build()(random_ids()), atol=1e-3)


def test_swiglu_gates():
    block = build(activation="swiglu", n_layers=1).blocks[0]
    x = torch.randn(2, 3, 16)
    torch.testing.assert_close(block._activate(x), F.silu(x @ block.gate.weight.T) * (x @ block.up.weight.T))
    assert block.down.weight.shape == (16, 8 * 16 // 3)


def test_dropout_acts_in_training_alone():
    model = build(dropout=0.5)
    assert torch.equal(model(random_ids()), build()(random_ids()))
    assert not torch.equal(model.train()(random_ids()), model(random_ids()))


class TestNgrams:
    def test_exact_tables_have_a_row_for_every_ngram(self):
        ngrams = NgramEmbedding(vocab_size=3, d_model=1, rows=[4**2, 4**3])
        rows = torch.cartesian_prod(*[torch.arange(4)] * 3)[:, None]  # every history, (64, 1, 3)
        for n, table in zip((2, 3), ngrams.tables, strict=True):
            torch.nn.init.zeros_(ngrams.tables[0].weight)
            torch.nn.init.zeros_(ngrams.tables[1].weight)
            table.weight.data = torch.arange(float(len(table.weight)))[:, None]
            assert len(ngrams(rows).unique()) == 4**n

    def test_hashed_tables_spread(self):
        """16 ** 3 trigrams fill at least as many of as many rows as balls thrown into bins: 1 - 1/e."""
        ngrams = NgramEmbedding(vocab_size=15, d_model=1, rows=[1, 16**3 - 1])
        torch.nn.init.zeros_(ngrams.tables[0].weight)
        ngrams.tables[1].weight.data = torch.arange(16.0**3 - 1)[:, None]
        histories = torch.cartesian_prod(*[torch.arange(16)] * 3)[:, None]
        assert len(ngrams(histories).unique()) / 16**3 > 1 - 1 / math.e

    def test_history_stops_at_padding_and_documents(self):
        ngrams = NgramEmbedding(vocab_size=9, d_model=1, rows=[5, 5])
        ids = torch.tensor([[4, 5, 6, 7]])
        assert ngrams.history(ids, None, None)[0].tolist() == [[9, 9, 4], [9, 4, 5], [4, 5, 6], [5, 6, 7]]
        padded = ngrams.history(ids, torch.tensor([[False, True, True, True]]), None)[0]
        assert padded[1:].tolist() == [[9, 9, 5], [9, 5, 6], [5, 6, 7]]
        packed = ngrams.history(ids, None, torch.tensor([[0, 0, 1, 1]]))[0]
        assert packed.tolist() == [[9, 9, 4], [9, 4, 5], [9, 9, 6], [9, 6, 7]]

    def test_they_tell_apart_what_the_embedding_cannot(self):
        model = build(n_layers=1, ngram_rows=[100])
        one, other = (model.hidden_states(torch.tensor([ids]))[0][0, 1] for ids in ([1, 2], [3, 2]))
        assert not torch.equal(one, other)

    def test_embeddings_without_ids_get_none(self):
        model, bare = build(ngram_rows=[100]), build()
        embeds = torch.randn(2, 5, 16)
        state = {k: v for k, v in model.state_dict().items() if not k.startswith("ngram")}
        bare.load_state_dict(state)
        assert torch.equal(model(None, inputs_embeds=embeds), bare(None, inputs_embeds=embeds))

    @pytest.mark.parametrize("lengths", [None, [2, 4, 1]])
    def test_steps_of_any_size_remember_what_came_before(self, lengths: list[int] | None):
        model = build(ngram_rows=[50, 50, 50])
        ids = random_ids()
        with torch.no_grad():
            state = model.init_state(3, 16)
            real = None if lengths is None else torch.tensor(lengths)
            _, state = model.step(ids[:, :4], state, real)
            for row, start in enumerate(lengths or [4, 4, 4]):
                one = state.clone().reorder(torch.tensor([row]))
                following = ids[row : row + 1, 4:8]
                whole = torch.cat((ids[row : row + 1, :start], following), dim=1)
                hidden = torch.cat([model.step(following[:, i : i + 1], one)[0] for i in range(4)], dim=1)
                torch.testing.assert_close(hidden, model(whole)[:, start:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 30}, r"model\.d_model \(30\) must be divisible by model\.n_heads \(4\)"),
        ({"d_model": 12}, r"model\.d_model / model\.n_heads \(3\) must be even"),
        ({"n_kv_heads": 3}, r"model\.n_heads \(4\) must be divisible by model\.n_kv_heads \(3\)"),
        ({"ngram_rows": [100, 0]}, r"model\.ngram_rows \(0\) must be at least 1"),
        ({"n_layers": 0}, r"n_layers \(0\) must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        Transformer(**{**SMALL, **change})


def test_too_long_an_input_is_refused():
    with pytest.raises(InputError, match=r"17 tokens are more than model\.max_seq_len \(16\)"):
        build()(random_ids(length=17))
