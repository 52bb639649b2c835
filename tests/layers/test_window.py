"""The window state holds each row's tokens and refuses what does not fit."""

import pytest
import torch

from llmcli.errors import InputError
from llmcli.layers.window import WindowState


def test_windows_end_at_each_new_token_and_begin_with_nothing():
    state = WindowState.empty(batch_size=2, capacity=6)
    assert state.read(torch.tensor([[1, 2], [7, 8]]), 3)[0].tolist() == [[-1, -1, 1], [-1, 1, 2]]
    state = state.advance(torch.tensor([2, 1]))
    assert state.read(torch.tensor([[3], [9]]), 3).tolist() == [[[1, 2, 3]], [[-1, 7, 9]]]


def test_padding_beyond_the_capacity_is_harmless_and_real_tokens_there_are_refused():
    state = WindowState.empty(batch_size=2, capacity=3)
    state.read(torch.tensor([[1, 2, 3], [7, 0, 0]]), 2)
    state.advance(torch.tensor([3, 1]))
    windows = state.read(torch.tensor([[0, 0], [8, 9]]), 2)
    assert windows[1].tolist() == [[7, 8], [8, 9]]
    with pytest.raises(InputError, match="4 tokens do not fit the state's capacity of 3"):
        state.advance(torch.tensor([1, 2]))
    state.advance(torch.tensor([0, 2]))
    assert state.truncate(torch.tensor([3, 3])).read(torch.tensor([[5], [5]]), 4)[0].tolist() == [[1, 2, 3, 5]]
