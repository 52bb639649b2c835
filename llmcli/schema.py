"""Check config values against the signatures they are for: the signature is the schema.

A node with a `_target_` may hold exactly the parameters of that class or function, each of the annotated type. A value
that an interpolation will bring at launch (`${facts.vocab_size}`) is left alone until then.
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    InterpolationKeyError,
    InterpolationToMissingValueError,
    OmegaConfBaseException,
)

from llmcli.errors import InputError
from llmcli.mistakes import did_you_mean, nearest

_OWN = ("_target_", "_partial_", "_convert_", "_recursive_", "_args_")  # Hydra's words in a node
_LATER = object()  # a value that is not known yet
_NUMBER_WORDS = ("precision",)  # keys of words, of which some are numbers: 32


def check(cfg: DictConfig, *, command: str, choices: Mapping[str, str], sections: Sequence[str] | None = None) -> None:
    """Check every node of a config, or of these sections of it, whose targets alone are imported.

    `command` and `choices` make the message about a missing value runnable.
    """
    if sections is None:
        _check(cfg, "", command, choices)
        return
    for name in sections:
        node = cfg._get_node(name)
        if isinstance(node, DictConfig | ListConfig):
            _check(node, name, command, choices)


def check_root_values(cfg: DictConfig, paths: Sequence[Path]) -> None:
    """A root key keeps the type of its default: seed=abc is refused where the file says `seed: 1`."""
    for path in paths:
        defaults = OmegaConf.load(path)
        assert isinstance(defaults, DictConfig)
        for key in defaults:
            name = str(key)
            if OmegaConf.is_missing(defaults, name) or name not in cfg or OmegaConf.is_interpolation(cfg, name):
                continue
            default, value = defaults[name], cfg[name]
            if name in _NUMBER_WORDS and isinstance(value, int):
                continue
            if isinstance(default, bool | int | float | str) and (wrong := mismatch(value, type(default))):
                raise InputError(f"{name}: {wrong}")


def locate(target: str) -> Any:
    """The object behind a dotted name. Raises InputError with the part that is not there."""
    parts = target.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module)
        except ModuleNotFoundError as err:
            if err.name is not None and (module == err.name or module.startswith(f"{err.name}.")):
                continue
            raise InputError(f"{target} cannot be loaded: {err}", hint=f"pip install {err.name}") from err
        for part in parts[length:]:
            if not hasattr(found, part):
                close = did_you_mean(nearest(part, [name for name in dir(found) if not name.startswith("_")]))
                raise InputError(f"_target_ {target}: {module} has no {part}.{close}")
            found = getattr(found, part)
        return found
    raise InputError(f"_target_ {target}: there is no module {parts[0]}")


def _check(node: DictConfig | ListConfig, key: str, command: str, choices: Mapping[str, str]) -> None:
    if OmegaConf.is_config(node) and (node._is_none() or node._is_missing() or node._is_interpolation()):
        return
    if isinstance(node, DictConfig) and "_target_" in node:
        _check_call(node, key, command, choices)
    names: Iterable[Any] = node.keys() if isinstance(node, DictConfig) else range(len(node))
    for name in names:
        child = node._get_node(name)
        if isinstance(child, DictConfig | ListConfig):
            _check(child, f"{key}.{name}" if key else str(name), command, choices)


def _check_call(node: DictConfig, key: str, command: str, choices: Mapping[str, str]) -> None:
    target = locate(str(node["_target_"]))
    if not callable(target):
        raise InputError(f"{key}: _target_ {node['_target_']} cannot be called")
    parameters, hints = _signature(target)
    free = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for name in (str(each) for each in node if each not in _OWN):
        if name in parameters:
            value = _value(node, name, f"{key}.{name}", command, choices)
            if value is not _LATER and (wrong := mismatch(value, hints.get(name, Any))):
                raise InputError(f"{key}.{name}: {wrong}")
        elif not free:
            close = nearest(name, parameters)
            raise InputError(
                f'there is no config key "{key}.{name}".{did_you_mean(f"{key}.{close}" if close else None)}',
                hint=f"{key} has: {', '.join(parameters)}",
            )
    if node.get("_partial_", False):
        return  # the program gives the rest
    for name, parameter in parameters.items():
        named = parameter.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if named and parameter.default is inspect.Parameter.empty and name not in node and "_args_" not in node:
            raise InputError(f"{key}.{name} is missing", hint=f"{node['_target_']} needs it: {key}.{name}=...")


def _signature(target: Callable[..., Any]) -> tuple[Mapping[str, inspect.Parameter], dict[str, Any]]:
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # a C function tells nothing
        anything = inspect.Parameter("anything", inspect.Parameter.VAR_KEYWORD)
        return {"anything": anything}, {}
    try:
        hints = get_type_hints(inspect.getattr_static(target, "__init__") if isinstance(target, type) else target)
    except (NameError, TypeError, AttributeError):
        hints = {}  # annotations that exist only for the type checker
    return parameters, hints


def _value(node: DictConfig, name: str, key: str, command: str, choices: Mapping[str, str]) -> Any:
    """The value of one parameter as a plain container; `_LATER` for nodes to build and for facts."""
    if OmegaConf.is_interpolation(node, name):
        try:
            value = node[name]
        except InterpolationToMissingValueError:
            return _LATER
        except (InterpolationKeyError, ConfigAttributeError) as err:
            raise InputError(f"{key}: {str(err).splitlines()[0]}") from err
        except OmegaConfBaseException as err:
            raise InputError(f"{key}: {str(err).splitlines()[0]}") from err
    elif OmegaConf.is_missing(node, name):
        group = key.partition(".")[0]
        option = f"{group}={choices[group]} " if group in choices else ""
        raise InputError(f"{key} is not set", hint=f"llm {command} {option}{key}={_placeholder(name)}")
    else:
        value = node[name]
    if isinstance(value, DictConfig | ListConfig):
        plain = OmegaConf.to_container(value, resolve=False)
        return _LATER if _open(plain) else plain
    return value


def _open(value: Any) -> bool:
    """Whether a container holds something that is built or filled in later."""
    if isinstance(value, Mapping):
        return "_target_" in value or any(_open(item) for item in value.values())
    if isinstance(value, list):
        return any(_open(item) for item in value)
    return isinstance(value, str) and ("${" in value or value == "???")


def _placeholder(name: str) -> str:
    return "FILE" if any(word in name for word in ("path", "file")) else name.upper()


def mismatch(value: Any, hint: Any) -> str | None:
    """`expected int, got 'abc'`, or None where the plain value fits the type hint.

    An int is a float, a bool is no int. Hints that plain YAML cannot tell apart (classes, callables) take anything.
    """
    if _fits(value, hint):
        return None
    return f"expected {_name(hint)}, got {value!r}"


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is None or hint is type(None):
        return value is None
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in arguments)
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    container = origin if isinstance(origin, type) else hint
    if not isinstance(container, type) or container is object:
        return True
    if issubclass(container, tuple):
        return isinstance(value, list) and _fits_tuple(value, arguments)
    if issubclass(container, Mapping):
        pairs = value.items() if isinstance(value, dict) else ()
        return isinstance(value, dict) and (
            len(arguments) != 2 or all(_fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in pairs)
        )
    if issubclass(container, list | set | frozenset) or container in (Sequence, Iterable):
        return isinstance(value, list) and (not arguments or all(_fits(item, arguments[0]) for item in value))
    return True


def _fits_tuple(value: list[Any], arguments: tuple[Any, ...]) -> bool:
    if not arguments:
        return True
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(_fits(item, arguments[0]) for item in value)
    return len(value) == len(arguments) and all(map(_fits, value, arguments))


def _name(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is type(None):
        return "null"
    if origin in (Union, types.UnionType):
        return " or ".join(_name(each) for each in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(each) for each in arguments)
    if origin is not None and arguments:
        inner = ", ".join("..." if each is Ellipsis else _name(each) for each in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]".lower()
    return str(getattr(hint, "__name__", hint))
