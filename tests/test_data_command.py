"""llm data, as it is typed: the report in tables, as a page and as JSON, and the list of data sets."""

import json
import subprocess
import sys
from html import escape
from pathlib import Path

import pytest

from llmcli.catalog import Catalog, config_dir
from llmcli.report.data import html

EVIL = "a fine <script>alert('x')</script> film"
ARGS = ["data=text", "data.path=films.txt", "data.document=line", "tokenizer=char"]


@pytest.fixture
def films(tmp_path):
    lines = [
        f"Of the films that we saw last year number {i} was, and all of us said so, {'very ' * (i % 4)}good."
        for i in range(300)
    ]
    (tmp_path / "films.txt").write_text("\n".join([*lines, EVIL, EVIL.upper()]) + "\n", "utf-8")


def test_the_report(llm, films, tmp_path):
    shown = llm("data", *ARGS, "clean=[lowercase]")
    assert shown.code == 0
    page = (tmp_path / "data-text.html").read_text("utf-8")
    assert "page  data-text.html" in shown.err
    assert escape("'clean=[lowercase]'") in page, "the command that makes the page again is quoted for a shell"
    plain = llm("data", *ARGS, "clean=[lowercase]", "--json", "--out", "other.html")
    facts = json.loads(plain.out)
    assert (tmp_path / "other.html").is_file() and page.count("<section>") == 7
    splits = facts["splits"]
    assert sum(each["documents"] for each in splits.values()) == 302
    for split in splits.values():
        assert f"{split['characters']:,}" in shown.out and f"{split['tokens']:,}" in page
    assert facts["cleaning"][0]["changed"] == 301 and "clean.lowercase" in page
    # what is shown of the data stands in the page as text, and what the page is made of is what the JSON says
    facts["examples"]["train"][0] = EVIL
    evil = html(facts)
    assert "<script" not in evil and "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt;" in evil
    assert "val has only" in shown.err, "a warning, with its way out on the next line"


def test_json_writes_no_page_unless_asked(llm, films, tmp_path):
    assert llm("data", *ARGS, "--json").code == 0
    assert not list(tmp_path.glob("*.html"))


def test_near_copies_are_counted_by_the_settings_of_their_own(llm, films):
    found = [
        json.loads(llm("data", *ARGS, "--json", f"compare_by.near.threshold={threshold}").out)["copies"]
        for threshold in (0.5, 1.0)
    ]
    assert found[0]["near"]["repeats"] > found[1]["near"]["repeats"]
    assert found[0]["exact"] == found[1]["exact"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["show"], "llm data has no action 'show'"),
        ([*ARGS, "sample=0"], "sample (0) must be at least 1"),
        ([*ARGS, "--out", "films.txt/page.html"], "out: films.txt/page.html cannot be written"),
    ],
)
def test_mistakes(llm, films, args, message):
    done = llm("data", *args)
    assert (done.code, message in done.err) == (2, True), done.err


def test_the_list_has_every_data_set_with_what_it_needs(llm):
    found = {each["name"]: each for each in json.loads(llm("data", "list", "--json").out)}
    assert sorted(found) == [option.name for option in Catalog([config_dir()]).options("data")]
    assert found["text"]["record"] == "Text" and found["text"]["needs"] == "path"
    assert found["wikitext2"]["needs"] == "download" and found["python_docs"]["needs"] == ""
    assert all(each["meaning"] and each["record"] for each in found.values())
    shown = llm("data", "list").out
    assert all(f"  {name} " in shown for name in found)


def test_the_list_shows_the_users_own_too(llm, tmp_path):
    (tmp_path / "mine" / "data").mkdir(parents=True)
    content = "# my own poems\n# licence: CC0\n_target_: llmcli.data.readers.text.TextFiles\npath: null\n"
    (tmp_path / "mine" / "data" / "poems.yaml").write_text(content, "utf-8")
    found = json.loads(llm("data", "list", "--json", "--config-dir", "mine").out)
    poems = {"name": "poems", "record": "Text", "needs": "path", "licence": "CC0", "meaning": "my own poems"}
    assert poems in found


def test_the_list_waits_for_no_torch():
    code = (
        "import sys; from llmcli import cli; code = cli.main(['data', 'list']); "
        "print(code, *{'torch', 'pytorch_lightning', 'pyarrow', 'sentencepiece'} & set(sys.modules), file=sys.stderr)"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stderr.strip() == "0"
