"""A model that was prepared for generation computes what it computed before, in less time and no more memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcli.decoding.greedy import Greedy
from llmcli.decoding.lookup import Lookup
from llmcli.decoding.penalties import Penalties
from llmcli.errors import InputError
from llmcli.inference import fuse, prepare_for_generation
from llmcli.layers.packed import PackedLinear, can_pack
from llmcli.models.transformer import FusedBlock, Transformer
from llmcli.tasks.language_modeling import LanguageModeling

VOCAB, LENGTH = 40, 12
OFF = Penalties(repetition=1.0, frequency=0.0, presence=0.0, no_repeat_ngram=0)
SHAPES: list[dict[str, Any]] = [
    {"activation": "swiglu", "n_kv_heads": 2, "qk_norm": False, "tie_embeddings": True, "logit_softcap": None},
    {"activation": "relu2", "ngram_rows": [50]},
    {"activation": "gelu", "n_kv_heads": 1},
]
packs = pytest.mark.skipif(not can_pack(), reason="this CPU has no AVX512-BF16, or torch no oneDNN")


def build(**changes: Any) -> LanguageModeling:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": VOCAB, "max_seq_len": 16, "causal": True, "d_model": 32, "n_layers": 2, "n_heads": 4,
        "n_kv_heads": None, "d_ff": None, "activation": "relu2", "qk_norm": True, "rope_theta": 10000.0,
        "ngram_rows": [], "tie_embeddings": False, "logit_softcap": 15.0, "dropout": 0.1,
    }  # fmt: skip
    model = Transformer(**{**shape, **changes})
    task = LanguageModeling(model=model, causal=True, label_smoothing=0.0).eval()
    for parameter in task.parameters():
        nn.init.normal_(parameter, std=32**-0.5)
    return task


def random_ids(rows: int = 3) -> Tensor:
    return torch.randint(VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(0))


def logits(task: LanguageModeling, ids: Tensor) -> Tensor:
    return task.head.logits(task.model(ids))


def stepped(task: LanguageModeling, ids: Tensor, sizes: list[int]) -> Tensor:
    state, pieces = task.init_state(len(ids), LENGTH), []
    for piece in ids.split(sizes, dim=1):
        out = task.step(piece, state)
        state = out.state
        pieces.append(out.logits)
    return torch.cat(pieces, dim=1)


def storage(task: nn.Module) -> int:
    tensors = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in task.parameters()}
    return sum(tensors.values())


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sizes", [[LENGTH], [1] * LENGTH, [5, 1, 4, 2]])
def test_the_fused_form_equals_the_trained_one(shape, sizes):
    task, ids = build(**shape), random_ids()
    before, bytes_before = logits(task, ids), storage(task)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [5], [1]])
    padded = task.model(ids, mask=mask)
    fuse(task)
    fuse(task)  # nothing more to do
    assert all(isinstance(block, FusedBlock) for block in task.model.blocks)
    torch.testing.assert_close(logits(task, ids), before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(task.model(ids, mask=mask)[mask], padded[mask], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(stepped(task, ids, sizes), before, rtol=1e-4, atol=1e-4)
    assert storage(task) == bytes_before


def test_fused_rows_of_different_lengths_step_together():
    task, ids = build(**SHAPES[0]), random_ids()
    fuse(task)
    state = task.init_state(3, LENGTH + 2)
    lengths = torch.tensor([6, 3, 1])
    state = task.step(ids[:, :6], state, lengths).state
    following = ids.gather(1, lengths[:, None] + torch.arange(4))
    pieces = []
    for column in following.split(1, dim=1):
        out = task.step(column, state)
        state = out.state
        pieces.append(out.logits)
    whole = logits(task, ids)
    for row, start in enumerate(lengths.tolist()):
        found = torch.cat(pieces, dim=1)[row]
        torch.testing.assert_close(found, whole[row, start : start + 4], rtol=1e-4, atol=1e-4)


def test_padding_of_prompts_is_no_work():
    """What the layers multiply are the real tokens, and the prompts' last hidden states are as before."""
    task, ids = build(**SHAPES[0]), random_ids()
    lengths = torch.tensor([LENGTH, 5, 1])
    last = logits(task, ids)[torch.arange(3), lengths - 1]
    fuse(task)
    rows: list[int] = []
    for block in task.model.blocks:
        block.up.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].numel() // 32))
    out = task.step(ids, task.init_state(3, LENGTH), lengths, last_only=True)
    torch.testing.assert_close(out.logits[:, 0], last, rtol=1e-4, atol=1e-4)
    assert rows == [LENGTH + 5 + 1] * 2


def test_float32_writes_what_it_wrote_before():
    task = build()
    prepared = copy.deepcopy(task)
    prepare_for_generation(prepared, torch.float32)
    assert written(prepared) == written(task)


@pytest.mark.parametrize("shape", SHAPES)
def test_guesses_are_taken_back_from_the_fused_form(shape):
    """Rows of different lengths, some guesses wrong in each, and past the window."""
    task = build(**shape)
    guessed = copy.deepcopy(task)
    prepare_for_generation(guessed, torch.float32)
    lookup = Lookup(
        draft_tokens=3, ngram=1, temperature=0.0, top_k=None, top_p=None, min_p=None, typical_p=None, penalties=OFF,
    )  # fmt: skip
    expected, found = written(task, tokens=40), written(guessed, lookup, tokens=40)
    for row in range(3):
        texts = [[ids[row] for ids in each if ids[row] is not None] for each in (expected, found)]
        assert texts[0] == texts[1] and len(texts[0]) == 40


def written(task: LanguageModeling, strategy: Any = None, tokens: int = 20) -> list[list[int | None]]:
    prompts = [[1, 2, 3], [4], [5, 6]]
    strategy = strategy or Greedy(penalties=OFF)
    steps = strategy.decode(task, prompts, end_ids=frozenset(), max_new_tokens=tokens, seeds=[0, 0, 0])
    return [each.ids for each in steps]


@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_logits_stay_near_those_of_float32(shape):
    """The largest difference of a logit is below a tenth of their spread, packed or not, cached or not."""
    task, ids = build(**shape), random_ids()
    expected = logits(task, ids)
    prepare_for_generation(task, torch.bfloat16)
    allowed = 0.1 * expected.std().item()
    for found in (logits(task, ids), stepped(task, ids, [1] * LENGTH)):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=allowed)


@packs
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_layer_equals_the_product(bias):
    layer = nn.Linear(48, 20, bias=bias, dtype=torch.bfloat16)
    packed = PackedLinear(layer.weight, layer.bias)
    for shape in ((1, 48), (8, 48), (2, 3, 48), (0, 48)):
        x = torch.randn(shape).bfloat16()
        y = packed(x)
        assert y.shape == (*shape[:-1], 20) and y.dtype == torch.bfloat16
        torch.testing.assert_close(y.float(), F.linear(x, layer.weight, layer.bias).float(), rtol=0.01, atol=0.01)
    assert packed(torch.randn(1, 48)).dtype == torch.float32


@packs
def test_packed_weights_are_there_once_and_an_embedding_stays():
    for tied in (False, True):
        task = build(tie_embeddings=tied)
        prepare_for_generation(task, torch.bfloat16)
        assert isinstance(task.head.output, PackedLinear)
        assert (task.head.weight is None) is not tied
        assert not [name for name, _ in task.named_parameters() if name.startswith("model.blocks")]
        assert task.model.input_embedding.weight.dtype == torch.bfloat16


@packs
def test_a_packed_layer_has_no_gradient_and_stays_where_it_is():
    with torch.inference_mode(False):
        packed = PackedLinear(torch.randn(4, 4), None)
        with pytest.raises(RuntimeError, match="has no gradient"):
            packed(torch.randn(1, 4, requires_grad=True))
        assert packed.float()(torch.ones(1, 4)).shape == (1, 4)
        with pytest.raises(InputError, match="a model packed for the CPU cannot move to meta"):
            packed.to("meta")
