"""Compose, validate and build configs; the only caller of Hydra's compose and instantiate.

Composing touches neither the working directory nor the disk and leaves no global state behind: a command sees only the
config. What Hydra itself knows of the command line (overrides, group choices) is kept in `launch()`.
"""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from llmcli import schema
from llmcli.catalog import Catalog, config_dir
from llmcli.errors import CheckpointError, InputError
from llmcli.mistakes import did_you_mean, nearest, nearest_key
from llmcli.trust import check_plain, check_targets, trusted

__all__ = [
    "Launch",
    "build",
    "capture",
    "compose",
    "config_dir",
    "launch",
    "quoted",
    "resolved",
    "through_hydra",
    "trusted",
    "validate",
    "with_facts",
]

_GRAMMAR = re.compile(r"^(choice|range|interval|glob|sort|shuffle|tag|extend_list|int|float|str|bool|json_str)\(")
_PLAIN_KEY = re.compile(r"^(\+\+|\+)?[A-Za-z_][\w./@-]*$")


@dataclass(frozen=True)
class Launch:
    """How the running command was called. `choices`: config group -> option ("null" is left out).

    `run_dir` is the folder that the user asked for with hydra.run.dir=, None where he left it to us.
    """

    command: str
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    run_dir: str | None = None
    config_dirs: list[str] = field(default_factory=list)

    def sets(self, key: str) -> bool:
        """Whether the user typed a value for this key."""
        return any(each.lstrip("+~").partition("=")[0] == key for each in self.overrides)


_launch = Launch(command="")


def launch() -> Launch:
    """The command line of this process, as the last `capture` saw it."""
    return _launch


def capture(command: str, overrides: Sequence[str] = (), *, config_dirs: Sequence[str] = ()) -> DictConfig | None:
    """The config of a command line, which `launch()` then describes.

    None: the config asks for a sweep (hydra.mode: MULTIRUN), which is not one config. Raises InputError.
    """
    global _launch
    cfg, _launch, mode = _compose(command, overrides, config_dirs)
    if mode == RunMode.MULTIRUN:
        return None
    schema.check_root_values(cfg, Catalog(_folders(config_dirs)).roots(command))
    if "seed" in cfg and not -(2**63) <= cfg.seed < 2**63:
        raise InputError(f"seed ({cfg.seed}) must fit in 64 bits, sign included")
    return cfg


def compose(command: str, overrides: Sequence[str] = (), *, config_dirs: Sequence[str] = ()) -> DictConfig:
    """The config that `llm COMMAND OVERRIDES` would use. Raises InputError."""
    return _compose(command, overrides, config_dirs)[0]


def through_hydra(
    command: str,
    overrides: Sequence[str],
    flags: Sequence[str],
    *,
    config_dirs: Sequence[str] = (),
) -> None:
    """Let Hydra do what it does itself: --cfg, --info, --hydra-help, and --multirun with the configured launcher."""

    def never_called(cfg: DictConfig) -> None:
        raise AssertionError("the jobs of a sweep are processes of their own")

    sweeping = "--multirun" in flags
    arguments = [*(_grammatical(each, sweeping=sweeping) for each in overrides), *flags]
    with _search_path(config_dirs), _hydra_owns_the_process([f"llm {command}", *arguments]):
        try:
            hydra.main(version_base="1.3", config_path=str(config_dir()), config_name=command)(never_called)()
        except (HydraException, OmegaConfBaseException) as err:
            raise _explained(err, command, overrides, config_dirs) from err


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """The config as plain str, int, float, bool, None, list and dict, all interpolations resolved."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as err:
        raise InputError(f"the config cannot be resolved: {_first_line(err)}") from err
    assert isinstance(plain, dict)
    return {str(key): _plain(value) for key, value in plain.items()}


def with_facts(cfg: DictConfig, facts: Mapping[str, Any]) -> DictConfig:
    """A copy of the config whose `facts` hold what only the data and the tokenizer could tell.

    Raises InputError where a value is text with `${`, which no checkpoint may hold.
    """
    copy = cfg.copy()
    with open_dict(copy):
        copy.facts = {**_known(copy.get("facts")), **facts}
    try:
        check_plain(resolved(copy))
    except CheckpointError as err:
        raise InputError("a config value may not hold the characters ${ once it is resolved", str(err)) from err
    return copy


def _known(node: DictConfig | None) -> dict[str, Any]:
    """The entries of a flat section that have a value, whether or not others still miss theirs."""
    if node is None:
        return {}
    return {str(key): node[key] for key in node if not OmegaConf.is_missing(node, key)}


def validate(cfg: DictConfig, sections: Sequence[str] | None = None) -> None:
    """Check every node with a `_target_` against that target's signature, before anything is built.

    sections: those that the command builds; others are not looked at. None: all.

    Raises InputError naming the key: unknown (with a suggestion), missing (with how to give it), or of another type.
    """
    schema.check(cfg, command=_launch.command or "train", choices=_launch.choices, sections=sections)


def build(node: Any, /, *, trusted: tuple[str, ...] | None = None, **extra: Any) -> Any:
    """What a config node describes: the object of its `_target_`, a partial where it says `_partial_: true`.

    extra: arguments that only the program has (a module, a tokenizer), handed over as they are. trusted: the config
    comes from a checkpoint; every `_target_` below the node must be one that its section may name (`llmcli.trust`), or
    of these packages. None: the user wrote it. Raises InputError naming the config key for whatever the constructors
    refuse, CheckpointError for a target that is not trusted.
    """
    if node is None:
        return None
    if not isinstance(node, DictConfig | ListConfig):
        node = OmegaConf.create(node)
    key = str(node._get_full_key(None))
    if trusted is not None:
        # no interpolation passes, so what is checked here is what is built
        check_targets(OmegaConf.to_container(node, resolve=False), key.partition(".")[0], trusted)
    try:
        if not isinstance(node, DictConfig) or "_target_" not in node:
            built = instantiate(node, _convert_="all", **extra)
            return {name: _direct(value) for name, value in built.items()} if isinstance(built, dict) else built
        # called by us, not by Hydra, which would copy `extra` and turn dataclasses into configs
        partial = _direct(instantiate(node, _convert_="all", _partial_=True))
        constructor = functools.partial(partial, **extra)
        return constructor if node.get("_partial_", False) else constructor()
    except InstantiationException as err:
        raise _unwrapped(err, key) from err
    except OmegaConfBaseException as err:  # some are ValueErrors too, of several lines
        raise InputError(f"{key or 'config'}: {_first_line(err)}") from err
    except (ValueError, TypeError) as err:
        raise _with_key(err, key) from err


def _direct(built: Any) -> Any:
    """A partial without Hydra's check of its target at every call, which takes longer than many a function here.

    What may be named was checked before it was built.
    """
    if not isinstance(built, functools.partial):
        return built
    return functools.partial(_direct(built.func), *built.args, **built.keywords)


def _compose(
    command: str, overrides: Sequence[str], config_dirs: Sequence[str]
) -> tuple[DictConfig, Launch, RunMode | None]:
    given = _chosen(command, [_grammatical(each, sweeping=False) for each in overrides], config_dirs)
    given = _changing_the_run(command, given, config_dirs)
    try:
        whole = _raw_compose(command, given, config_dirs)
        settings = whole.hydra
        asked = any(each.lstrip("+").startswith("hydra.run.dir=") for each in given)
        told = Launch(
            command=command,
            overrides=OmegaConf.to_container(settings.overrides.task, resolve=False),  # type: ignore[arg-type]
            choices={
                group: str(option)
                for group, option in settings.runtime.choices.items()
                if option is not None and not str(group).startswith("hydra/")
            },
            run_dir=str(settings.run.dir) if asked or settings.run.dir != "." else None,
            config_dirs=[str(Path(each).absolute()) for each in config_dirs],
        )
        mode = settings.mode
        with open_dict(whole):
            del whole["hydra"]
            if "embedding_init" in whole.get("model", {}):
                # a key of every model and of no constructor: `assembly.build` sees to it
                whole.embedding_init = whole.model.pop("embedding_init")
    except (HydraException, OmegaConfBaseException) as err:
        raise _explained(err, command, given, config_dirs) from err
    return whole, told, mode


def _chosen(command: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> list[str]:
    """The overrides without `group=null`, which Hydra cannot read: refused where the command needs an option."""
    catalog = Catalog(_folders(config_dirs))
    defaults = catalog.defaults(command)
    nothing = [each for each in overrides if each.endswith("=null") and each.removesuffix("=null") in defaults]
    for override in nothing:
        group = override.removesuffix("=null")
        if defaults[group] != "null":
            options = ", ".join(option.name for option in catalog.options(group))
            raise InputError(f"{override}: llm {command} needs one", hint=f"{group}: {options}")
    return [each for each in overrides if each not in nothing]


def _changing_the_run(command: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> list[str]:
    """`decoding.beams=10` without `decoding=`, of a command that has none of its own: appended to a section of its
    own, by which the command changes the run's.

    Raises InputError for a key that no option of the group has.
    """
    catalog = Catalog(_folders(config_dirs))
    if catalog.defaults(command).get("decoding") != "null" or any(_key_of(each) == "decoding" for each in overrides):
        return list(overrides)
    options = [option.name for option in catalog.options("decoding")]
    known = [key.name for option in options for key in catalog.group_keys("decoding", option)]
    for override in overrides:
        key, value = _key_of(override), override.partition("=")[2]
        if key.startswith("decoding.") and key not in known:
            meant = nearest_key(key, known)
            suggestion = did_you_mean(f"{meant}={value}" if meant else None)
            raise InputError(f'there is no config key "{key}".{suggestion}', hint=f"llm {command} --help")
    return [f"+{each}" if each.startswith("decoding.") else each for each in overrides]


def _raw_compose(command: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> DictConfig:
    with (
        _search_path(config_dirs),
        hydra.initialize_config_dir(str(config_dir()), job_name="llm", version_base="1.3"),
    ):
        return hydra.compose(command, list(overrides), return_hydra_config=True)


class _UserFolders(SearchPathPlugin):
    """Puts the folders of --config-dir before ours; Hydra's own flag puts them after, where they replace nothing."""

    folders: Sequence[Path] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in reversed(self.folders):
            search_path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="main"))


@contextmanager
def _search_path(config_dirs: Sequence[str]) -> Iterator[None]:
    if _UserFolders not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(_UserFolders)
    _UserFolders.folders = _user_folders(config_dirs)
    try:
        yield
    finally:
        _UserFolders.folders = ()


def _user_folders(config_dirs: Sequence[str]) -> list[Path]:
    folders = [Path(each).absolute() for each in config_dirs]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"--config-dir {folder}: there is no such folder")
    return folders


def _folders(config_dirs: Sequence[str]) -> list[Path]:
    return [*_user_folders(config_dirs), config_dir()]


@contextmanager
def _hydra_owns_the_process(argv: list[str]) -> Iterator[None]:
    """hydra.main reads sys.argv, and prints errors itself unless told otherwise; both are put back."""
    typed, full_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = argv, "1"
    try:
        yield
    finally:
        sys.argv = typed
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_error
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None


# -- what the user typed ------------------------------------------------------------------------------------


def _grammatical(override: str, *, sweeping: bool) -> str:
    """The override as Hydra can read it: a plain value outside its grammar, such as `my book (1).txt`, is quoted."""
    key, equals, value = override.partition("=")
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as err:  # mostly its OverrideParseException
        structured = value.lstrip().startswith(("[", "{", "'", '"')) or _GRAMMAR.match(value)
        if not equals or not _PLAIN_KEY.match(key) or (structured and not Path(value).exists()):
            raise _unreadable(override) from err
        return f"{key}={quoted(value)}"
    if not sweeping and parsed.is_sweep_override():
        if Path(value).exists():
            return f"{key}={quoted(value)}"
        raise InputError(
            f"{override} names several values",
            hint=f"-m trains one after the other; a single value with a comma is quoted: {key}=\"'{value}'\"",
        )
    return override


def quoted(text: str) -> str:
    """The text as a string literal of Hydra's grammar, in which OmegaConf resolves nothing."""
    escaped = re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + r"\${", text)
    return QuotedString(text=escaped, quote=Quote.double).with_quotes()


def _unreadable(override: str) -> InputError:
    if "=" not in override:
        return InputError(f'"{override}" is not an override', hint="overrides look like group=option or key=value")
    key, _, value = override.partition("=")
    return InputError(
        f"{key}: cannot read the value {value}", hint=f"text with odd characters is quoted: {key}=\"'...'\""
    )


def _explained(
    err: HydraException | OmegaConfBaseException,
    command: str,
    overrides: Sequence[str],
    config_dirs: Sequence[str],
) -> InputError:
    """The error in the user's terms: which group, option or key, and what he may have meant."""
    if isinstance(err, MissingConfigException):
        return _no_option(err, config_dirs)
    if isinstance(err, OverrideParseException):
        return _unreadable(err.override)
    message = _first_line(err)
    if found := re.match(r"Could not (?:override|append to config|delete from config)[.:]? ?'([^']+)'", message):
        return _no_key(found[1], command, overrides, config_dirs)
    if message.startswith("Could not append to config"):
        return InputError(message, hint="leave out the + to change a key that is there")
    return InputError(message)


def _no_option(err: MissingConfigException, config_dirs: Sequence[str]) -> InputError:
    group, _, option = (err.missing_cfg_file or "").rpartition("/")
    if not group:
        return InputError(_first_line(err))
    # of a list of options Hydra does not say what there is
    options = sorted(err.options or [each.name for each in Catalog(_folders(config_dirs)).options(group)])
    meant = nearest(option, options)
    suggestion = did_you_mean(f"{group}={meant}" if meant else None)
    hint = f"{group}: {', '.join(options)}" if options else ""
    return InputError(f'there is no {group} "{option}".{suggestion}', hint=hint)


def _no_key(key: str, command: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> InputError:
    value = next((each.partition("=")[2] for each in overrides if _key_of(each) == key), "")
    catalog = Catalog(_folders(config_dirs))
    groups = catalog.groups()
    if key in groups:
        return InputError(f'llm {command} has no group "{key}"', hint=f"llm {command} --help lists what it has")
    keys = _keys_of(command, [each for each in overrides if _key_of(each) in groups], config_dirs)
    meant = nearest(key, [group for group in catalog.defaults(command) if group in groups], cutoff=0.7)
    if meant is None or "." in key:
        meant = nearest_key(key, keys)
    suggestion = did_you_mean(f"{meant}={value}" if meant else None)
    if "." in key:
        return InputError(f'there is no config key "{key}".{suggestion}', hint=_keys_beside(key, keys, catalog))
    hint = f"llm {command} --help lists the groups and keys"
    return InputError(f'there is no config group or key "{key}".{suggestion}', hint=hint)


def _keys_beside(key: str, keys: Sequence[str], catalog: Catalog) -> str:
    """Which options of the group have the key, or else what the section has instead."""
    section, group = key.rpartition(".")[0], key.partition(".")[0]
    options = [option.name for option in catalog.options(group)]
    keys_of = {name: {each.name: each.default for each in catalog.group_keys(group, name)} for name in options}
    having = [name for name in options if key in keys_of[name]]
    if having:
        chosen = "{}=[{}]" if catalog.defaults("train").get(group) == "[]" else "{}={}"
        # published data are a long list that few look for; they have the hash of a file or of several
        hashed = {name: keys_of[name].get(f"{group}.sha256", "null") for name in having}
        published = [
            name
            for name in having
            if hashed[name] != "null" or any(each.startswith(f"{group}.sha256.") for each in keys_of[name])
        ]
        named = [chosen.format(group, name) for name in having if name not in published] or published
        more = f" and {len(published)} published sets" if len(named) < len(having) else ""
        return f"it is a key of {', '.join(named)}{more}"
    there = [each.removeprefix(f"{section}.") for each in keys if each.startswith(f"{section}.")]
    return f"{section} has: {', '.join(there)}" if there else ""


def _keys_of(command: str, choices: Sequence[str], config_dirs: Sequence[str]) -> list[str]:
    """All dotted keys of the config that these group choices make; of the defaults where they do not compose."""
    for attempt in (list(choices), []):
        try:
            whole = _raw_compose(command, attempt, config_dirs)
        except (HydraException, OmegaConfBaseException):
            continue
        container = OmegaConf.to_container(whole, resolve=False)
        assert isinstance(container, dict)
        return list(_leaves({str(key): value for key, value in container.items() if key != "hydra"}))
    return []


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if str(key).startswith("_"):
            continue
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


# -- what is built ------------------------------------------------------------------------------------------


def _unwrapped(err: InstantiationException, outer: str) -> Exception:
    """The constructor's own error from inside Hydra's, with the config key in front of a message that lacks it."""
    found = re.search(r"^full_key: (.+)$", str(err), flags=re.MULTILINE)
    key = found[1] if found else outer
    cause = err.__cause__
    while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if cause is None or isinstance(cause, InstantiationException | ImportError):
        return InputError(f"{key or 'config'}: {_first_line(err)}")
    if isinstance(cause, ValueError | TypeError):
        return _with_key(cause, key)
    return cause if isinstance(cause, Exception) else err


def _with_key(err: ValueError | TypeError, key: str) -> InputError:
    hint = err.hint if isinstance(err, InputError) else ""
    message = str(err) or type(err).__name__
    kind = type(err) if isinstance(err, InputError) else InputError
    return kind(message if not key or key in message else f"{key}: {message}", hint=hint)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _first_line(err: BaseException) -> str:
    return next(iter(str(err).splitlines()), "") or type(err).__name__
