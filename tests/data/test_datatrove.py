"""Cleaning in a datatrove pipeline gives the shards that cleaning in llm prepare gives."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

from llmcli.data.datatrove import CleanDocuments
from llmcli.data.prepare import prepare
from llmcli.errors import InputError
from llmcli.text.normalize import lowercase
from llmcli.tokenizers.byte import ByteTokenizer


def without_z(text):
    return None if "z" in text else text


CLEAN = {"lowercase": lowercase, "z": without_z}


@dataclass
class Document:
    text: str
    id: str = ""


def test_documents_are_cleaned_and_dropped_piece_by_piece():
    long = "Word " * 300_000
    texts = ["One", "Zero", "", long + "Z" * 5, "Last"]
    cleaned = [document.text for document in CleanDocuments(CLEAN)(map(Document, texts), rank=1, world_size=2)]
    assert [cleaned[0], cleaned[2]] == ["one", "last"]
    assert len(cleaned) == 3 and long.lower().startswith(cleaned[1]) and len(cleaned[1]) > 900_000
    with pytest.raises(InputError, match=r"clean\.x: 3 is no cleaning step"):
        CleanDocuments({"x": 3})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_local_executor_gives_what_prepare_gives(tmp_path, text_files):
    pytest.importorskip("datatrove", reason="datatrove is not installed (the extra `scale`)")
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    raw, done = tmp_path / "raw", tmp_path / "cleaned"
    raw.mkdir()
    for part in range(3):
        lines = [json.dumps({"text": f"Part {part}, Document {n}" + " z" * (n % 5 == 0)}) for n in range(40)]
        (raw / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    pipeline = [JsonlReader(str(raw)), CleanDocuments(CLEAN), JsonlWriter(str(done))]
    LocalPipelineExecutor(pipeline, tasks=3, workers=2, logging_dir=str(tmp_path / "logs")).run()
    assert len(list(done.glob("*.jsonl.gz"))) == 3

    here = prepare(text_files(raw), clean=CLEAN, tokenizer=ByteTokenizer(), tokenizer_key={}).split("train")
    there = prepare(text_files(done), tokenizer=ByteTokenizer(), tokenizer_key={}).split("train")
    assert len(here.document_ends) == 3 * 32
    np.testing.assert_array_equal(there.read(0, len(there)), here.read(0, len(here)))
    np.testing.assert_array_equal(there.document_ends, here.document_ends)
