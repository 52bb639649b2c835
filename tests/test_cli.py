"""The command line in one process: what commands receive, what mistakes say, exit codes, help, completion."""

import os
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llmcli import __version__, cli, config
from llmcli.catalog import Catalog, config_dir, keys
from llmcli.commands.completion import candidates
from llmcli.errors import InputError, LLMError

ENV = {**os.environ, "PYTHONPATH": str(Path(cli.__file__).parents[1])}


@pytest.fixture
def received(monkeypatch):
    """Replaces the commands by one that notes down what it gets."""
    seen = {}

    def run(cfg, texts):
        seen.update(cfg=cfg, texts=texts, argv=list(sys.argv), launch=config.launch())
        return 0

    _replace(monkeypatch, run)
    return seen


def _replace(monkeypatch, run):
    for command in cli.COMMANDS.values():
        name = command.module
        if name == "completion":
            continue
        module = types.ModuleType(f"llmcli.commands.{name}")
        module.run = run
        monkeypatch.setitem(sys.modules, f"llmcli.commands.{name}", module)


# -- what a command receives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("typed", "meant"), [("--promt", "--prompt"), ("--prompt-fil", "--prompt-file")])
def test_a_misspelt_option_of_text_is_known(capsys, typed, meant):
    assert cli.main(["generate", typed, "hi"]) == 2
    assert f"there is no option {typed}. Did you mean {meant}?" in capsys.readouterr().err


def test_options_are_overrides(received):
    assert cli.main(["train", "--seed", "7", "--trainer.max-steps=9", "--dry-run", "model=lstm", "--json"]) == 0
    cfg = received["cfg"]
    assert (cfg.seed, cfg.trainer.max_steps, cfg.dry_run, cfg.json) == (7, 9, True, True)
    assert received["launch"].choices["model"] == "lstm"
    assert received["argv"][1:] == [
        "train",
        "--seed",
        "7",
        "--trainer.max-steps=9",
        "--dry-run",
        "model=lstm",
        "--json",
    ]


def test_free_text_never_meets_hydra(received):
    texts = ["${oc.env:HOME}", "a=b, [c", "--json", "", "-m", "naïve 'quotes\"\n"]
    words = [word for text in texts for word in ("--stop", text)]
    assert cli.main(["generate", "--prompt=x=${y}", *words, "prompt=[second", "--prompt-file", "f (1).txt"]) == 0
    assert received["texts"] == {"prompt": ["x=${y}", "[second"], "stop": texts, "prompt_file": ["f (1).txt"]}
    assert "prompt" not in received["cfg"] and received["cfg"].json is False


@pytest.mark.parametrize("form", [["--ckpt", "runs/a b/x=y.ckpt"], ["ckpt=runs/a b/x=y.ckpt"]])
def test_paths_with_odd_characters(received, form):
    assert cli.main(["eval", *form]) == 0
    assert received["cfg"].ckpt == "runs/a b/x=y.ckpt"


def test_negative_numbers_are_values(received):
    assert cli.main(["generate", "--seed", "-3"]) == 0
    assert received["cfg"].seed == -3


def test_bare_words_of_runs(received):
    assert cli.main(["runs", "delete", "runs/a=b/(1)", "--yes"]) == 0
    cfg = received["cfg"]
    assert (cfg.action, cfg.run, cfg["yes"], cfg.dir) == ("delete", "runs/a=b/(1)", True, "runs")


def test_flags_may_stand_anywhere(received, capsys):
    assert cli.main(["train", "seed=4", "--cfg", "job", "model=lstm", "--resolve", "trainer.max_steps=8"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    assert (shown.seed, shown.trainer.max_steps) == (4, 8)
    assert received == {}


@pytest.mark.parametrize(
    "word", ["train", "eval", "generate", "chat", "predict", "average", "export", "prepare", "data", "bench", "runs"]
)
def test_every_command_composes_and_shows_its_config(word, capsys, received):
    assert cli.main([word]) == 0
    assert cli.main([word, "--cfg", "job"]) == 0
    shown = OmegaConf.create(capsys.readouterr().out)
    if "embedding_init" in shown.get("model", {}):  # a key of every model that no constructor has
        shown.embedding_init = shown.model.pop("embedding_init")
    assert shown == received["cfg"]


# -- mistakes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("trian", 'there is no command "trian". Did you mean llm train?', "the commands: train, eval"),
        ("train modle=lstm", 'there is no config group or key "modle". Did you mean model=lstm?', "llm train --help"),
        ("train model=lstn", 'there is no model "lstn". Did you mean model=lstm?', "lstm, "),
        ("train model=zzz", 'there is no model "zzz".', "model: "),
        ("train max_steps=5", 'group or key "max_steps". Did you mean trainer.max_steps=5?', "--help"),
        ("train trainer.max_step=5", '"trainer.max_step". Did you mean trainer.max_steps=5?', "trainer has: max_steps"),
        ("train --max-stps 5", 'key "max_stps". Did you mean trainer.max_steps=5?', "--help"),
        ("train data.path=x", 'there is no config key "data.path".', "data=text"),
        ("train sede=5", 'key "sede". Did you mean seed=5?', "--help"),
        ("train --jsno", 'there is no flag "--jsno". Did you mean --json?', "llm train --help"),
        ("train --dry-rum", 'there is no flag "--dry-rum". Did you mean --dry-run?', "llm train --help"),
        ("train --mutlirun", "Did you mean --multirun?", "--help"),
        ("train --seed", "--seed needs a value", "seed=VALUE"),
        ("train --seed --json", "--seed needs a value", "seed=VALUE"),
        ("train -x", "there is no flag -x", "--help"),
        ("train lstm", '"lstm" is not an override', "group=option"),
        ("train seed=abc", "seed: expected int, got 'abc'", ""),
        ("train seed=[1", "seed: cannot read the value [1", "is quoted"),
        ("train model=rnn,lstm", "model=rnn,lstm names several values", "-m trains one after the other"),
        ("train +model=lstm", "Multiple values for model", ""),
        ("train --config-dir /no/such", "--config-dir /no/such: there is no such folder", ""),
        ("train --config-name x", "--config-name is not used here", "train.yaml"),
        ("eval tokenizer=char", "tokenizer=char: eval uses the run's own tokenizer", "llm train tokenizer=char"),
        ("eval model.d_model=3", "eval uses the run's own model", ""),
        ("eval clean=[html]", "eval uses the run's own clean", ""),
        ("prepare seed=x", "seed: expected int, got 'x'", ""),
        ("generate data=text", "generate uses the run's own data", ""),
        ("generate model=lstm", "generate uses the run's own model", ""),
        ("generate --prompt", "--prompt needs a value", ""),
        ("generate max_new_tokens=many", "max_new_tokens: expected int, got 'many'", ""),
        ("train -m hydra/launcher=basic hydra.sweep.dir=s", "each job of a sweep is a process of its own", "leave"),
        ("eval -m split=val,test", "llm eval cannot sweep", "llm train"),
        ("runs optimizer=sgd", 'llm runs has no group "optimizer"', ""),
        ("completion bsh", 'no completion for "bsh". Did you mean bash?', "bash|zsh|fish"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(words, message, hint, capsys, received):
    assert cli.main(words.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and received == {}
    first, *rest = captured.err.splitlines()
    assert first.startswith("error: ") and message in first
    assert hint in "\n".join(rest)
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    ("raised", "code", "shown"),
    [
        (InputError("no such file", hint="make it"), 2, "error: no such file\n       make it\n"),
        (LLMError("disk full"), 1, "error: disk full\n"),
        (
            RuntimeError("broken\nsecond line"),
            1,
            "error: RuntimeError: broken\n       this is a bug; --traceback shows the rest\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_exit_codes(monkeypatch, capsys, raised, code, shown):
    def run(cfg, texts):
        raise raised

    _replace(monkeypatch, run)
    assert cli.main(["train"]) == code
    assert capsys.readouterr().err == shown


def test_traceback_shows_where(monkeypatch, capsys):
    def run(cfg, texts):
        raise InputError("deep inside")

    _replace(monkeypatch, run)
    assert cli.main(["train", "--traceback"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err and err.endswith("error: deep inside\n")


def test_exit_passes_through(monkeypatch):
    def run(cfg, texts):
        raise SystemExit(143)

    _replace(monkeypatch, run)
    with pytest.raises(SystemExit) as caught:
        cli.main(["train"])
    assert caught.value.code == 143


def test_a_closed_pipe_is_quiet():
    code = "import sys; from llmcli.cli import main; sys.exit(main(['completion', 'bash']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True, env=ENV)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


# -- help -------------------------------------------------------------------------------------------------------


def test_help_imports_nothing_heavy_and_is_quick():
    code = (
        "import sys, time; start = time.perf_counter(); from llmcli.cli import main\n"
        "for words in (['--help'], ['train', '--help'], ['completion', 'candidates', 'train', 'mod']):\n"
        "    assert main(words) == 0\n"
        "heavy = {'torch', 'hydra', 'omegaconf', 'pytorch_lightning', 'rich', 'numpy'} & set(sys.modules)\n"
        "print(f'{heavy} {time.process_time():.3f}', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=ENV)
    heavy, seconds = done.stderr.split()
    assert heavy == "set()"
    assert float(seconds) < 0.15  # processor time of the whole interpreter: other load does not count


def test_overview_lists_every_command(capsys):
    assert cli.main([]) == 0
    out = capsys.readouterr().out
    assert cli.main(["--help"]) == 0
    assert capsys.readouterr().out == out
    for name, command in cli.COMMANDS.items():
        assert re.search(rf"^  {name} +{command.meaning} +\S", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 80


def test_train_help_lists_groups_options_and_examples(capsys):
    assert cli.main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for group in Catalog([config_dir()]).defaults("train"):
        for option in Catalog([config_dir()]).options(group):
            assert re.search(rf"^  [* ] {option.name}( |$)", out, re.MULTILINE)
    assert re.search(r"^  \* transformer +modern", out, re.MULTILINE)
    assert re.search(r"^  resume=null +a run folder", out, re.MULTILINE)
    assert out.count("\n  llm train") >= 5


def test_help_knows_the_users_folder(tmp_path, capsys):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# my own model\n_target_: x.Y\n")
    assert cli.main(["train", "--config-dir", str(tmp_path), "--help"]) == 0
    assert re.search(r"^    mine +my own model", capsys.readouterr().out, re.MULTILINE)


def test_the_meaning_of_an_experiment_stands_below_its_package_line(tmp_path, capsys):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n# my own recipe\nseed: 2\n")
    assert cli.main(["train", "--config-dir", str(tmp_path), "--help"]) == 0
    assert re.search(r"^    mine +my own recipe", capsys.readouterr().out, re.MULTILINE)


def test_generate_help_tells_its_keys_and_not_the_runs_groups(capsys):
    assert cli.main(["generate", "--help"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^  max_new_tokens=200 +tokens to add", out, re.MULTILINE)
    assert "--prompt TEXT" in out and "decoding=" in out and "tokenizer=" not in out


def test_every_root_key_has_a_meaning():
    for name, command in cli.COMMANDS.items():
        for key in Catalog([config_dir()]).root_keys(command.config or ""):
            assert key.meaning, f"{name}: {key.name}"


def test_the_examples_of_the_table_compose(received):
    for command in cli.COMMANDS.values():
        for example in command.examples:
            if example.startswith("llm ") and " -m " not in example and "completion" not in example:
                words = shlex.split(example.partition(" < ")[0])  # the rest is the shell's
                assert cli.main(words[1:]) == 0, example


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"llm {__version__}\n"


def test_the_light_reading_of_yaml_agrees_with_omegaconf():
    for path in config_dir().rglob("*.yaml"):
        loaded = OmegaConf.to_container(OmegaConf.load(path))
        for key in keys(path):
            node = loaded
            for part in key.name.split("."):
                assert part in node, f"{path}: {key.name}"
                node = node[part]


# -- completion -------------------------------------------------------------------------------------------------


def test_candidates(tmp_path):
    assert candidates(["tr"]) == ["train"]
    assert candidates(["train", "mod"]) == ["model=", "model.embedding_init=", "model."]
    assert candidates(["train", "model=ls"]) == ["model=lstm"]
    assert candidates(["train", "-m", "model=rnn,ls"]) == ["model=rnn,lstm"]
    assert candidates(["train", "trainer.max_st"]) == ["trainer.max_steps="]
    assert candidates(["train", "--dr"]) == ["--dry-run"]
    assert candidates(["eval", "tok"]) == []
    assert candidates(["completion", "z"]) == ["zsh"]
    run = tmp_path / "text-lstm" / "2026"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    assert candidates(["eval", "ckpt="], runs=tmp_path) == ["ckpt=latest", f"ckpt={run}"]


def test_keys_are_those_of_the_chosen_option():
    assert "data.path=" in candidates(["train", "data=text", "data.pa"])
    assert candidates(["train", "data=python_docs", "data.pa"]) == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [("llm tra", ["train"]), ("llm train model=ls", ["lstm"]), ("llm train trainer.max_st", ["trainer.max_steps="])],
)
def test_the_bash_script_completes(tmp_path, line, expected):
    program = tmp_path / "llm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m llmcli "$@"\n')
    program.chmod(0o755)
    words = re.split(r"([= ])", line)
    words = [word for word in words if word.strip()]  # as bash splits at COMP_WORDBREAKS
    script = (
        f'PATH={tmp_path}:$PATH; eval "$(llm completion bash)"; compopt() {{ :; }}\n'
        f"COMP_LINE='{line}'; COMP_POINT={len(line)}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}\n"
        '_llm_complete; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=ENV, cwd=tmp_path)
    assert done.stdout.split() == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_ask_the_program(shell, capsys):
    assert cli.main(["completion", shell]) == 0
    assert "llm completion candidates" in capsys.readouterr().out


def test_candidates_on_the_command_line(capsys):
    assert cli.main(["completion", "candidates", "train", "--json", "optimizer=muo"]) == 0
    assert capsys.readouterr().out == "optimizer=muon\n"
