"""`llm generate`: where prompts come from, and that what is printed is what was made."""

from __future__ import annotations

import io
import json
import sys

import pytest

CPU = "accelerator=cpu"


@pytest.fixture
def generate(llm, trained):
    def call(*more: str):
        result = llm("generate", f"ckpt={trained}", CPU, "max_new_tokens=12", *more)
        assert result.code == 0, result.err
        return result

    return call


def results(result) -> list[dict]:
    assert result.out.count("\n") == 1  # one line to every tool, though U+2028 may be in it
    return json.loads(result.out)["results"]


def stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_prompts_from_the_flag_a_file_and_standard_input_are_the_same(generate, tmp_path, monkeypatch):
    from_flags = results(generate("--prompt", "the cat", "--prompt", "a dog", "--json"))
    (tmp_path / "prompts.txt").write_bytes("\ufeffthe cat\r\n\na dog\n".encode())
    from_file = results(generate("--prompt-file", "prompts.txt", "--json"))
    stdin(monkeypatch, b"the cat\na dog")
    from_stdin = results(generate("--json"))
    assert from_flags == from_file == from_stdin
    assert [each["prompt"] for each in from_flags] == ["the cat", "a dog"]


def test_a_line_ends_at_a_newline_alone(generate, tmp_path):
    (tmp_path / "prompts.txt").write_text("one\u2028line\x0cstill\ntwo", encoding="utf-8")
    found = results(generate("--prompt-file", "prompts.txt", "--json"))
    assert [each["prompt"] for each in found] == ["one\u2028line\x0cstill", "two"]


def test_an_empty_standard_input_begins_a_document(generate, monkeypatch):
    stdin(monkeypatch, b"")
    [only] = results(generate("--json"))
    assert only["prompt"] == "" and only["ids"]


def test_json(generate, trained):
    result = generate("--prompt", "the cat", "--json", "num_samples=2")
    [line] = result.out.splitlines()
    content = json.loads(line)
    assert set(content) == {"results", "seed", "ckpt"}
    assert content["seed"] == 1 and content["ckpt"] == str(trained / "checkpoints" / "best.ckpt")
    assert len(content["results"]) == 2
    for each in content["results"]:
        assert set(each) == {"prompt", "text", "ids", "tokens", "logprobs", "finish_reason", "prompt_dropped"}
        assert len(each["tokens"]) == len(each["ids"]) == len(each["logprobs"])
        assert each["finish_reason"] in ("length", "end")
        assert (len(each["ids"]) == 12) if each["finish_reason"] == "length" else (len(each["ids"]) <= 12)
        assert max(each["logprobs"]) <= 0


def test_the_samples_of_a_prompt_differ_and_a_seed_reproduces_them(generate):
    arguments = ["--prompt", "the cat", "num_samples=3", "--json", "decoding.temperature=1.5"]
    first, again, other = (results(generate(*arguments, f"seed={seed}")) for seed in (3, 3, 4))
    assert first == again != other
    assert len({each["text"] for each in first}) == 3
    greedy = results(generate("--prompt", "the cat", "num_samples=2", "decoding=greedy", "--json"))
    assert greedy[0]["text"] == greedy[1]["text"]


def test_several_texts_are_set_apart(generate):
    made = results(generate("--prompt", "a", "--prompt", "b", "decoding=greedy", "--json"))
    shown = generate("--prompt", "a", "--prompt", "b", "decoding=greedy")
    assert shown.out == "\n---\n".join(each["prompt"] + each["text"] for each in made) + "\n"


@pytest.mark.parametrize("prompt", ["the cat", "今天天气", ""])
def test_a_stream_is_the_text(generate, prompt):
    [made] = results(generate("--prompt", prompt, "max_new_tokens=60", "--json"))
    streamed = generate("--prompt", prompt, "max_new_tokens=60", "stream=true")
    whole = generate("--prompt", prompt, "max_new_tokens=60", "stream=false")
    assert streamed.out == whole.out == prompt + made["text"] + "\n"


def test_text_ends_before_a_stop_string(generate):
    prompt = ["--prompt", "the cat", "max_new_tokens=60", "--json"]
    texts = (results(generate(*prompt, f"seed={seed}"))[0]["text"] for seed in range(20))
    seed, text = next((seed, text) for seed, text in enumerate(texts) if len(text) > 9)  # it may end at once
    [free], stop = results(generate(*prompt, f"seed={seed}")), text[7:9]
    found = generate(*prompt, f"seed={seed}", "--stop", stop, "--stop", "never this")
    [stopped] = results(found)
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == free["text"][: free["text"].index(stop)]


@pytest.mark.parametrize("prompt", ["${oc.env:HOME}", "a=b,c", "[1, {x: 2}]", "--cat", 'say "hi"', "it's\ttabbed"])
def test_a_prompt_is_never_read_as_config(generate, prompt):
    assert results(generate("--prompt", prompt, "--json"))[0]["prompt"] == prompt
    assert generate(f"--prompt={prompt}").out.startswith(prompt)


def test_characters_are_never_split(generate):
    """Bytes at random are mostly no characters: each broken one is shown as U+FFFD, whole and only once it is known."""
    for seed in range(3):
        result = generate(
            "--prompt", "今天天气很好，我们", "max_new_tokens=80", "decoding.temperature=1.5", f"seed={seed}"
        )
        assert result.out.startswith("今天天气很好，我们")
        assert result.out.encode("utf-8").decode("utf-8") == result.out
        assert not any(0xD800 <= ord(character) <= 0xDFFF for character in result.out)


def test_generation_goes_on_past_the_context(generate):
    [long] = results(generate("--prompt", "the cat sees " * 5, "max_new_tokens=50", "decoding=greedy", "--json"))
    assert len(long["ids"]) == 50 or long["finish_reason"] == "end"


def test_a_prompt_beyond_the_context_is_said_to_be_cut(generate):
    """The model reads 16 tokens and keeps three quarters of them of a longer prompt."""
    long = generate("--prompt", "the cat sees " * 5, "--json")
    assert results(long)[0]["prompt_dropped"] > 65 - 16
    assert f"the first {results(long)[0]['prompt_dropped']} tokens of the prompt were not read" in long.err
    short = generate("--prompt", "the cat", "--json")
    assert results(short)[0]["prompt_dropped"] == 0 and "were not read" not in short.err


def test_what_is_not_the_text_goes_to_stderr(generate):
    result = generate("--prompt", "the cat")
    assert "tokens/s, seed 1" in result.err and "tokens/s" not in result.out
    assert "\x1b" not in result.out + result.err


def test_the_latest_run_is_used_and_named(llm, small, tmp_path):
    tiny = ["model.n_heads=2", "model.ngram_rows=[64]", "trainer.max_steps=2"]
    assert llm("train", *small, *tiny).code == 0
    [run] = (tmp_path / "runs").glob("*/*")
    result = llm("generate", CPU, "--prompt", "the cat", "max_new_tokens=2")
    assert result.code == 0 and str(run.relative_to(tmp_path)) in result.err


def test_a_text_keeps_to_the_rule_that_is_asked_for(generate, llm, trained, tmp_path):
    pytest.importorskip("llguidance")
    found = results(generate("--prompt", "the", "--prompt", "a", "constraint.choices=[the cat,1]", "--json"))
    assert {each["text"].strip() for each in found} <= {"the cat", "1"}
    assert {each["finish_reason"] for each in found} == {"end"}
    [found] = results(generate("--prompt", "the", "constraint.pattern='[abc]{3}'", "--json"))
    assert len(found["text"]) == 3 and set(found["text"]) <= set("abc")
    (tmp_path / "short.json").write_text('{"enum": ["cat", "a"]}')
    [found] = results(generate("--prompt", "the", "constraint.schema=short.json", "--json"))
    assert json.loads(found["text"]) in ("cat", "a")
    assert "1 of 1 texts reached max_new_tokens" in generate("--prompt", "a", "constraint.pattern='[abc]{50}'").err


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("constraint.choices=yes", "constraint.choices (yes) must be a list"),
        ("constraint.schema=nowhere.json", "constraint.schema=nowhere.json: No such file or directory"),
        ("constraint.schema=list.json", "constraint.schema=list.json holds no JSON object"),
        ("constraint.schema=text.txt", "constraint.schema=text.txt is no JSON"),
        ("constraint.choise=[a]", 'there is no config key "constraint.choise". Did you mean constraint.choices=[a]?'),
    ],
)
def test_a_rule_that_cannot_be_read_is_named(llm, trained, tmp_path, asked, message):
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "text.txt").write_text("no")
    result = llm("generate", f"ckpt={trained}", CPU, "--prompt", "a", asked)
    assert result.code == 2 and message in result.err
