"""llm data: a report on a data set, on the terminal and as a page; llm data list: all of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from omegaconf import DictConfig

from llmcli import config as configs
from llmcli import files, schema, ui
from llmcli.catalog import Catalog, Option, config_dir
from llmcli.errors import InputError

_TARGET = re.compile(r"^\s*_target_:\s*(\S+)", re.MULTILINE)
_LICENCE = re.compile(r"^# licence:\s*(.+)$", re.MULTILINE)


def run(cfg: DictConfig, texts: dict[str, list[str]]) -> int:
    if cfg.action == "list":
        return _list(bool(cfg.json))
    if cfg.action != "report":
        raise InputError(f"llm data has no action {cfg.action!r}", "it has: list; without one it reports on data=...")
    return _report(cfg)


def _report(cfg: DictConfig) -> int:
    from llmcli.data.survey import survey
    from llmcli.preparation import SECTIONS, prepare_data
    from llmcli.report import data as report

    configs.validate(cfg, (*SECTIONS, "compare_by"))
    launch = configs.launch()
    name = str(launch.choices.get("data"))
    prepared = prepare_data(cfg)
    source = configs.build(cfg.data)
    with ui.Meter() as meter:
        facts = survey(
            source,
            prepared,
            clean=configs.build(cfg.clean) or {},
            policies={kind: configs.build(node) for kind, node in cfg.compare_by.items()},
            context=cfg.model.get("max_seq_len"),
            sample=int(cfg.sample),
            compare=int(cfg.compare),
            seed=int(cfg.seed),
            report=meter,
        )
    facts = {"data": name, "choices": _chosen(launch.overrides), "prepared": str(prepared.path), **facts}
    if cfg.json:
        ui.out_json(facts)
    else:
        report.show(facts)
    if cfg.out is not None or not cfg.json:
        path = Path(str(cfg.out)) if cfg.out is not None else Path(f"data-{name}.html")
        _write(path, report.html(facts))
        ui.note(f"page  {path}")
    return 0


def _write(path: Path, page: str) -> None:
    try:
        files.write_atomic(path, page.encode("utf-8"))
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as err:
        raise InputError(f"out: {path} cannot be written: {err.strerror}", "--out FILE writes it elsewhere") from err


def _chosen(overrides: list[str]) -> str:
    """The command that makes this report again."""
    return shlex.join(["llm", "data", *overrides])


def _list(as_json: bool) -> int:
    folders = [*map(Path, configs.launch().config_dirs), config_dir()]
    catalog = Catalog(folders)
    found = [_described(catalog, option) for option in catalog.options("data")]
    if as_json:
        ui.out_json(found)
        return 0
    rows: list[tuple[str, str, str]] = []
    for record, group in groupby(sorted(found, key=lambda each: each["record"]), key=lambda each: each["record"]):
        rows.append((record, "", ""))
        rows += [(f"  {each['name']}", each["needs"], _about(each)) for each in group]
    ui.table(rows, ("data=", "needs", "what it is"), stdout=True)
    return 0


def _about(described: Mapping[str, str]) -> str:
    licence = described["licence"]
    return f"{described['meaning']}. Licence: {licence}" if licence else described["meaning"]


def _described(catalog: Catalog, option: Option) -> dict[str, str]:
    """What a data set is, from its YAML and the classes that it names."""
    content = option.path.read_text(encoding="utf-8")
    licence = _LICENCE.search(content)
    keys = {key.name.removeprefix("data."): key.default for key in catalog.group_keys("data", option.name)}
    return {
        "name": option.name,
        "record": _record(_TARGET.findall(content)),
        "needs": _needs(keys),
        "licence": licence[1].strip() if licence else "",
        "meaning": option.meaning,
    }


def _record(targets: Sequence[str]) -> str:
    """The kind of record that the source, or its reader, always yields."""
    kinds = (getattr(schema.locate(target), "record", None) for target in targets)
    return next((kind.__name__ for kind in kinds if isinstance(kind, type)), "")


def _needs(keys: Mapping[str, str]) -> str:
    if any(name.partition(".")[0] in ("url", "urls") and value not in ("null", "") for name, value in keys.items()):
        return "download"
    return "path" if keys.get("path") == "null" else ""
