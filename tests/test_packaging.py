"""What is installed: the wheel holds the package and its YAML, and works from any directory without the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llmcli import __version__

ROOT = Path(__file__).resolve().parents[1]


def python(*words: str, cwd: Path, path: Path | None = None) -> str:
    """Standard output of `python WORDS`, with `path` alone in front of what is installed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["PIP_NO_INDEX"] = "1"
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    # -P: the working directory is no place to import from
    done = subprocess.run([sys.executable, "-P", *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(folder: str, suffix: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / folder).rglob(f"*{suffix}")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by pip as for a user, but without fetching anything."""
    pytest.importorskip("hatchling", reason="the wheel is built by hatchling, of the dev extra")
    out = tmp_path_factory.mktemp("wheel")
    build = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-cache-dir", "-q")
    python(*build, "-w", str(out), str(ROOT), cwd=out)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_holds_the_package_the_yaml_and_nothing_else(wheel):
    assert wheel.name == f"llmcli-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = {name for name in names if name.startswith(f"llmcli-{__version__}.dist-info/")}
    code = files("llmcli", ".py") | files("llmcli", ".cpp") | files("llmcli", ".hpp")
    assert names - about == code | {f"llmcli/{name}" for name in files("configs", ".yaml")}
    assert {name.partition("/")[2] for name in about} == {
        "METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE",
    }  # fmt: skip


def test_the_command_is_registered(installed):
    (about,) = installed.glob("*.dist-info")
    assert "llm = llmcli.cli:main" in (about / "entry_points.txt").read_text("utf-8").splitlines()
    metadata = (about / "METADATA").read_text("utf-8").splitlines()
    assert {"Name: llmcli", f"Version: {__version__}"} <= set(metadata)


def test_it_composes_its_own_yaml_from_anywhere(installed, tmp_path):
    where = python("-c", "from llmcli.catalog import config_dir; print(config_dir())", cwd=tmp_path, path=installed)
    assert Path(where.strip()) == installed / "llmcli" / "configs"
    job = OmegaConf.create(python("-m", "llmcli", "train", "--cfg", "job", "model=gru", cwd=tmp_path, path=installed))
    assert job.model.pop("embedding_init") is None  # of train.yaml, a key of every model
    assert job.model == OmegaConf.load(ROOT / "configs" / "model" / "gru.yaml")
    assert list(tmp_path.iterdir()) == []


def test_it_helps_from_anywhere(installed, tmp_path):
    shown = python("-m", "llmcli", "train", "--help", cwd=tmp_path, path=installed)
    assert all(group in shown for group in ("tokenizer", "model", "optimizer", "trainer", "transformer", "python_docs"))
    assert python("-m", "llmcli", "--version", cwd=tmp_path, path=installed) == f"llm {__version__}\n"


def test_the_source_archive_holds_what_a_packager_needs(tmp_path):
    pytest.importorskip("hatchling", reason="built by hatchling, of the dev extra")
    python("-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path), cwd=ROOT)
    (path,) = tmp_path.iterdir()
    assert path.name == f"llmcli-{__version__}.tar.gz"
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files("llmcli", ".py") | files("configs", ".yaml") | files("tests", ".py") | files("scripts", ".sh") <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "PKG-INFO"} <= names
    assert not [name for name in names if name.startswith(("runs/", ".git/", ".ci/")) or "__pycache__" in name]
