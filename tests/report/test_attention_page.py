"""The page of an attention map: whole, fetching nothing, each weight where it belongs."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from matplotlib import font_manager
from test_page import EVIL, check

from llmcli.report.attention import Looked, attention_page, draw_attention


def looked(source, target, *, layers=2, heads=3, seed=0):
    draw = torch.Generator().manual_seed(seed)
    weights = torch.rand(layers, heads, len(target), len(source), generator=draw).mul(4).softmax(-1)
    return Looked(source=source, target=target, weights=weights.tolist(), mean=weights.mean((0, 1)).tolist())


def test_the_page_shows_every_weight_and_a_small_map_of_each_layer_and_head():
    found = looked(["a", "b", "end"], ["x", "y"])
    content = attention_page([found], subtitle="a run")
    said = re.findall(r"<title>(\S+) ← (\S+): ([\d.]+)</title>", content)
    assert [each[:2] for each in said] == [(x, y) for x in ("x", "y") for y in ("a", "b", "end")]
    assert [float(each[2]) for each in said] == pytest.approx([w for row in found.mean for w in row], abs=6e-4)
    text = check(content).text
    assert all(f"layer {layer}, head {head}" in text for layer in (1, 2) for head in (1, 2, 3))
    alone = attention_page([looked(["a", "end"], ["x"], layers=1, heads=1)], subtitle="a run")
    assert "head 1" not in alone and "Each head" not in alone


def test_the_mean_of_a_layer_is_that_of_its_heads():
    found = looked(["a", "b"], ["x"])
    expected = torch.tensor(found.weights).mean(1)
    torch.testing.assert_close(torch.tensor(found.layers()), expected)


def test_a_page_of_any_text_is_whole():
    content = attention_page([looked([EVIL, "\0", "end"], [EVIL, "男人"]), looked(["end"], [])], subtitle=EVIL)
    check(content)
    assert "<script" not in content


def test_the_picture_is_a_png_whatever_the_pieces(tmp_path):
    path = tmp_path / "map.png"
    assert draw_attention(path, [looked(["é", "$x$", "_y", "end"], ["a" * 40, "<eos>"]), looked(["a", "end"], [])])
    assert path.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [path]


def test_chinese_is_drawn_where_a_font_has_it_and_else_not_at_all(tmp_path, monkeypatch):
    path, found = tmp_path / "map.png", [looked(["a", "end"], ["x"]), looked(["a", "end"], ["男人"])]
    latin = [font for font in font_manager.fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", latin)
    assert not draw_attention(path, found) and not path.exists()
    chinese = replace(latin[0], name="SimHei")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*latin, chinese])
    assert draw_attention(path, found) and path.read_bytes().startswith(b"\x89PNG")
