"""Vectors from spelling: which bytes are read, and that neither padding nor the other words matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from llmcli.errors import InputError
from llmcli.layers.characters import ByteVectors, CharacterCNN, CharacterLSTM, byte_ids

CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
KINDS = [CharacterCNN, CharacterLSTM]


def test_bytes_between_marks_and_of_long_words_both_ends():
    assert byte_ids(["cat"], 3).tolist() == [[*byte_ids(["c"], 3)[0]]]  # one byte is all that has room
    ids = byte_ids(["ab", "中", "", "prefixes"], 6)
    assert ids[0].tolist() == [1, 3 + ord("a"), 3 + ord("b"), 2, 0, 0]
    assert ids[1].tolist() == [1, *(3 + byte for byte in "中".encode()), 2, 0]
    assert ids[2].tolist() == [1, 2, 0, 0, 0, 0]
    assert np.array_equal(byte_ids(["22-8"], 6), byte_ids(["00-0"], 6))
    assert bytes((ids[3, 1:-1] - 3).tolist()) == b"pres"
    assert bytes((byte_ids(["prefixes"], 7)[0, 1:-1] - 3).tolist()) == b"prees"
    assert bytes((byte_ids(["prefixes"], 10)[0, 1:-1] - 3).tolist()) == b"prefixes"


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_other_words_change_nothing(kind):
    torch.manual_seed(0)
    module = kind(d_embed=4, d_out=6)
    words = ["a", "longest", "中文"]
    together = module(torch.from_numpy(byte_ids(words, 12)))
    assert together.shape == (3, 6)
    for row, word in enumerate(words):
        alone = module(torch.from_numpy(byte_ids([word], len(word.encode()) + 2)))
        torch.testing.assert_close(together[row], alone[0])
    assert not torch.equal(together[0], together[1])


def test_the_cnn_is_a_convolution_and_its_maximum():
    torch.manual_seed(0)
    module = CharacterCNN(d_embed=4, d_out=6)
    ids = torch.from_numpy(byte_ids(["to", "tomorrow"], 12))
    x = module.vectors()[ids].transpose(1, 2)
    answers = F.conv1d(x, module.filters.permute(2, 1, 0), module.bias, padding=1)
    expected = F.relu(torch.stack([answers[0, :, :4].amax(1), answers[1, :, :10].amax(1)]))
    torch.testing.assert_close(module(ids), expected)


def test_the_lstm_reads_each_word_to_both_of_its_ends():
    torch.manual_seed(0)
    module = CharacterLSTM(d_embed=4, d_out=6)
    ids = torch.from_numpy(byte_ids(["to", "tomorrow"], 12))
    found = module(ids)
    for row, length in enumerate([4, 10]):
        forwards, _ = module.forwards(module.vectors()[ids[row : row + 1, :length]])
        backwards, _ = module.backwards(module.vectors()[ids[row : row + 1, :length].flip(1)])
        torch.testing.assert_close(found[row], torch.cat([forwards[0, -1], backwards[0, -1]]))


def test_a_capital_letter_is_the_small_one_and_that_it_is_capital():
    vectors = ByteVectors(4)
    found = vectors()
    upper, lower = (torch.from_numpy(byte_ids([text], 28)[0, 1:-1]) for text in (CAPITALS, CAPITALS.lower()))
    torch.testing.assert_close(found[upper] - found[lower], vectors.capital.expand(26, 4))
    assert (found[0] == 0).all() and (found[1:] != 0).any(1).all()
    assert torch.equal(found[3 + ord("[")], vectors.embedding.weight[3 + ord("[")])


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_refused(kind):
    with pytest.raises(InputError, match=r"d_characters \(0\) must be at least 1"):
        kind(d_embed=4, d_out=0)
