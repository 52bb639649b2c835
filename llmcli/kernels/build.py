"""Kernels in C++: compiled for this machine at their first use, kept in the cache folder.

They are a matter of speed alone. Where a kernel cannot be had, callers go on with torch's operators, and `reason` says
why; LLM_KERNELS=0 in the environment has it so everywhere.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch

from llmcli import ui
from llmcli.data.cache import cache_root

SOURCES = Path(__file__).parent
FLAGS = [
    "-std=c++17", "-O3", "-fopenmp", "-fPIC", "-shared",
    "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16", "-mfma",
    "-w",  # gcc 12 warns of its own header
]  # fmt: skip
SECONDS = 120  # a compiler that takes longer hangs


@cache
def load(name: str) -> tuple[ctypes.CDLL | None, str]:
    """The library of `NAME.cpp`, or None and the reason why there is none."""
    if os.environ.get("LLM_KERNELS", "1") == "0":
        return None, "LLM_KERNELS=0"
    if sys.platform != "linux" or platform.machine() != "x86_64" or not torch.cpu._is_avx512_bf16_supported():
        return None, "this is no Linux on a CPU with AVX512-BF16"
    name_of_compiler = os.environ.get("CXX") or "g++"
    compiler = shutil.which(name_of_compiler)
    if compiler is None:
        return None, f"there is no C++ compiler {name_of_compiler} (CXX=COMPILER names another)"
    source = SOURCES / f"{name}.cpp"
    try:
        # torch has loaded its OpenMP by now, and the library takes that one: two would fight over the cores
        return ctypes.CDLL(str(_compiled(source, compiler))), ""
    except (OSError, subprocess.SubprocessError, RuntimeError) as err:  # RuntimeError: a user without a home
        output = err.stderr.strip() if isinstance(err, subprocess.CalledProcessError) else ""
        return None, f"{compiler} did not compile {source.name}: {output.splitlines()[0] if output else err}"


def _compiled(source: Path, compiler: str) -> Path:
    """The shared library, made where it is not there yet. Raises OSError, subprocess.SubprocessError, RuntimeError."""
    texts = [each.read_bytes() for each in (source, *sorted(SOURCES.glob("*.hpp")))]
    key = hashlib.sha256(b"\0".join([*texts, compiler.encode(), *map(str.encode, FLAGS)])).hexdigest()
    folder = cache_root() / "kernels"
    library = folder / f"{source.stem}-{key[:16]}.so"
    if library.exists():
        if library.stat().st_uid != os.getuid():  # code that somebody else has put there is not run
            raise OSError(f"{library} is another user's")
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:  # two processes may compile at once: each its own file
        made = Path(scratch) / library.name
        ui.note(f"compiling {source.name} for this machine, once: some seconds")
        command = [compiler, *FLAGS, str(source), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=SECONDS)
        made.replace(library)
    return library
