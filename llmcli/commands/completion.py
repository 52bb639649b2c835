"""`llm completion bash|zsh|fish`: a script for the shell, which asks `llm completion candidates` at every TAB."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from llmcli.catalog import Catalog, config_dir
from llmcli.cli import COMMANDS, Command
from llmcli.errors import InputError
from llmcli.mistakes import did_you_mean, nearest

_SCRIPTS = {
    "bash": """\
_llm_complete() {
    local word="${COMP_LINE:0:$COMP_POINT}"
    word="${word##* }"
    local before="${word%"${COMP_WORDS[COMP_CWORD]}"}"  # bash splits words at = and :
    [[ "${COMP_WORDS[COMP_CWORD]}" == "=" ]] && before="$word"
    local line=(${COMP_LINE:0:$COMP_POINT})
    [[ "$word" == "" ]] && line+=("")
    local IFS=$'\\n'
    COMPREPLY=($(llm completion candidates "${line[@]:1}" 2>/dev/null))
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
    [[ "${COMPREPLY[0]}" == *[=./] ]] && compopt -o nospace
    return 0
}
complete -o default -F _llm_complete llm
""",
    "zsh": """\
#compdef llm
_llm() {
    local -a found
    found=("${(@f)$(llm completion candidates "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    compadd -Q -S '' -- $found
}
compdef _llm llm
""",
    "fish": """\
function __llm_complete
    set -l before (commandline -opc)
    llm completion candidates $before[2..-1] (commandline -ct) 2>/dev/null
end
complete -c llm -f -a '(__llm_complete)'
""",
}
_RUN_KEYS = ("ckpt", "resume", "run")


def run(cfg: object, texts: Mapping[str, Sequence[str]]) -> int:
    """Print the script of a shell, or the candidates for the last word of a command line."""
    words = list(texts["args"])
    if words and words[0] == "candidates":
        sys.stdout.write("".join(f"{each}\n" for each in candidates(words[1:])))
        return 0
    if len(words) == 1 and words[0] in _SCRIPTS:
        sys.stdout.write(_SCRIPTS[words[0]])
        return 0
    close = did_you_mean(nearest(words[0], _SCRIPTS)) if words else ""
    what = f'there is no completion for "{" ".join(words)}".{close}' if words else "completion for which shell?"
    raise InputError(what, hint="llm completion bash|zsh|fish")


def candidates(words: Sequence[str], runs: Path = Path("runs")) -> list[str]:
    """What the last of the words (after `llm`) may become: commands, groups, options, keys, run folders."""
    current = words[-1] if words else ""
    if len(words) <= 1:
        return _starting(current, COMMANDS)
    command = COMMANDS.get(words[0])
    if command is None or command.config is None:
        return _starting(current, _SCRIPTS) if words[0] == "completion" else []
    catalog = Catalog([*_config_dirs(words), config_dir()])
    chosen = {**catalog.defaults(command.config), **dict(word.split("=", 1) for word in words[1:-1] if "=" in word)}
    key, equals, value = current.partition("=")
    if equals:
        return _values(key, value, catalog, chosen, runs)
    if current.startswith("-"):
        options = ["--" + each.replace("_", "-") for each in (*command.booleans, *command.texts)]
        return _starting(current, [*options, "--help", "--cfg", "--config-dir", "--traceback"])
    return _starting(current, _keys(command, catalog, chosen, current))


def _keys(command: Command, catalog: Catalog, chosen: Mapping[str, str], current: str) -> list[str]:
    groups = [each for each in catalog.defaults(command.config or "") if each not in command.of_the_run]
    found = [f"{group}=" for group in groups]
    found += [f"{key.name}=" for key in catalog.root_keys(command.config or "") if key.name not in command.booleans]
    if "." in current:  # the keys of a group only once it is named: there are hundreds
        group = current.partition(".")[0]
        found += [f"{key.name}=" for key in catalog.group_keys(group, chosen.get(group, ""))]
    else:
        found += [f"{group}." for group in groups if len(current) > 1 and group.startswith(current)]
    return found


def _values(key: str, value: str, catalog: Catalog, chosen: Mapping[str, str], runs: Path) -> list[str]:
    if key in _RUN_KEYS:
        folders = sorted(path.parent for path in runs.glob("**/config.yaml"))
        return _starting(f"{key}={value}", [f"{key}=latest", *(f"{key}={folder}" for folder in folders)])
    done = value.rpartition(",")[0]  # -m model=rnn,<TAB>
    before = f"{key}={done}," if done else f"{key}="
    return _starting(f"{key}={value}", [before + option.name for option in catalog.options(key)])


def _config_dirs(words: Sequence[str]) -> list[Path]:
    return [Path(after) for word, after in pairwise(words) if word in ("--config-dir", "-cd")]


def _starting(prefix: str, choices: Iterable[str]) -> list[str]:
    return [each for each in choices if each.startswith(prefix)]
