from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from llmcli.data.open_file import contents
from llmcli.data.prepare import prepare
from llmcli.data.published_files import PublishedFiles
from llmcli.data.readers.published import SingleText, SplitFiles
from llmcli.errors import InputError

CONFIGS = Path(__file__).parents[2] / "configs"


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=list(overrides))


def prepare_real(name, folder):
    cfg = load(f"data={name}", f"data.path={folder / name}")
    source = instantiate(cfg.data, _convert_="all")
    return prepare(source, tokenizer=instantiate(cfg.tokenizer, _convert_="all"), tokenizer_key={})


@pytest.fixture
def single(tmp_path):
    path = tmp_path / "web" / "input.txt"
    path.parent.mkdir()
    path.write_text("0123456789" * 10, encoding="utf-8")

    def make(place=None, **changes):
        settings = {"url": path.as_uri(), "sha256": sha(path), "val_fraction": 0.1, "test_fraction": 0.0}
        return SingleText(path=place and str(place), eos=False, **{**settings, **changes})

    make.path = path
    return make


@pytest.fixture
def split_files(tmp_path):
    folder = tmp_path / "split"
    folder.mkdir()
    files = {"train": folder / "train.txt", "val": folder / "valid.txt"}
    files["train"].write_text("\n one \n\n two\n", encoding="utf-8")
    files["val"].write_text("three\n", encoding="utf-8")

    def make(place=None, **changes):
        settings = {
            "urls": {name: path.as_uri() for name, path in files.items()},
            "sha256": {name: sha(path) for name, path in files.items()},
            "document": "line",
            "eos": True,
        }
        return SplitFiles(path=place and str(place), **{**settings, **changes})

    make.folder = folder
    return make


def joined(source, split):
    return [piece.text for piece in source.records(split)]


def test_a_single_text_is_split_by_position_and_may_be_downloaded_or_given(single, cache):
    downloaded, file, folder = single(), single(single.path), single(single.path.parent)
    for source in (downloaded, file, folder):
        assert joined(source, "train") == ["0123456789" * 9] and joined(source, "val") == ["0123456789"]
        assert source.fingerprint() == downloaded.fingerprint()
    assert [source.describe() for source in (downloaded, file, folder)] == ["web", "input.txt", "web"]
    assert len(list((cache / "downloads").glob("*-input.txt"))) == 1


def test_every_line_of_split_files_is_a_document_empty_ones_too(split_files):
    for source in (split_files(), split_files(split_files.folder)):
        assert source.splits == ("train", "val")
        assert joined(source, "train") == ["", " one ", "", " two"]
        assert joined(source, "val") == ["three"]
    assert joined(split_files(document="file"), "train") == ["\n one \n\n two\n"]
    assert joined(split_files(eos=False), "train") == ["\n", " one \n", "\n", " two\n"]


def test_paths_that_are_not_there(single, split_files, tmp_path):
    with pytest.raises(InputError, match=r"there is no file or folder .*nowhere") as caught:
        single(tmp_path / "nowhere")
    assert caught.value.hint == "data.path=null downloads the data"
    with pytest.raises(InputError, match=r"the folder .* has no input.txt"):
        single(tmp_path)
    with pytest.raises(InputError, match=r"there is no folder .*train.txt"):
        split_files(split_files.folder / "train.txt")
    (split_files.folder / "valid.txt").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"has no valid\.txt"):
        SplitFiles(
            path=str(split_files.folder),
            urls={"train": "http://x/train.txt", "val": "http://x/valid.txt"},
            sha256={"train": "0", "val": "0"},
            document="line",
            eos=True,
        )


def test_urls_and_checksums_name_the_same_splits(split_files):
    with pytest.raises(InputError, match=r"data.urls \(train, val\) and data.sha256 \(train\)"):
        split_files(sha256={"train": "0"})
    with pytest.raises(InputError, match=r"data.document \(word\)"):
        split_files(document="word")


def test_data_implies_its_tokenizer_and_the_command_line_wins():
    assert load("data=tinyshakespeare").tokenizer._target_ == "llmcli.tokenizers.char.train"
    assert load("data=wikitext2").tokenizer.segmenter._target_.endswith(".Whitespace")
    for overrides in (["tokenizer=byte", "data=wikitext2"], ["data=tinyshakespeare", "tokenizer=byte"]):
        assert load(*overrides).tokenizer._target_ == "llmcli.tokenizers.byte.train"


@pytest.mark.shared_data
def test_tiny_shakespeare_has_the_usual_split(real_data):
    prepared = prepare_real("tinyshakespeare", real_data)
    assert [prepared.count("tokens", split) for split in ("train", "val")] == [1_003_854, 111_540]
    assert prepared.tokenizer.vocab_size == 16 + 65
    cfg = load("data=tinyshakespeare")
    assert sha(real_data / "tinyshakespeare" / "input.txt") == cfg.data.sha256


@pytest.mark.shared_data
def test_wikitext_2_has_the_published_token_counts(real_data):
    prepared = prepare_real("wikitext2", real_data)
    counts = [prepared.count("tokens", split) for split in ("train", "val", "test")]
    assert counts == [2_088_628, 217_646, 245_569]
    cfg = load("data=wikitext2")
    names = {"train": "train.txt", "val": "valid.txt", "test": "test.txt"}
    assert {split: sha(real_data / "wikitext2" / name) for split, name in names.items()} == dict(cfg.data.sha256)


def test_what_follows_a_number_sign_is_a_member_or_another_name(tmp_path):
    web, own = tmp_path / "web", tmp_path / "own"
    web.mkdir()
    own.mkdir()
    with zipfile.ZipFile(web / "all.zip", "w") as archive:
        archive.writestr("set/train.csv", "one\n")
    (web / "test.json").write_text("two\n", encoding="utf-8")
    urls = [f"{(web / 'all.zip').as_uri()}#set/train.csv", f"{(web / 'test.json').as_uri()}#dev.json"]
    hashes = [sha(web / "all.zip"), sha(web / "test.json")]

    def texts(path):
        found = PublishedFiles(path=path and str(path), urls={"all": urls}, sha256={"all": hashes})
        return [content.stream.read() for content in contents(found["all"])]

    assert texts(None) == texts(web) == [b"one\n", b"two\n"]
    (own / "train.csv").write_text("mine\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"own has no dev\.json or test\.json$"):
        texts(own)
    (own / "dev.json").write_text("too\n", encoding="utf-8")
    assert texts(own) == [b"mine\n", b"too\n"]
    alone = PublishedFiles(path=str(web / "all.zip"), urls={"all": urls[:1]}, sha256={"all": hashes[:1]})
    assert [content.stream.read() for content in contents(alone["all"])] == [b"one\n"]
