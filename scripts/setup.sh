#!/usr/bin/env bash
# Make .venv with the tested versions and install llm in it:  bash scripts/setup.sh [EXTRAS]
# EXTRAS are optional dependencies of pyproject.toml, such as dev. PYTHON=python3.12 chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:-}
python=${PYTHON:-python3}
"$python" - <<'PY'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"llm needs Python 3.11 or newer, this is {sys.version.split()[0]}; PYTHON=python3.12 bash scripts/setup.sh")
PY
if [ ! -x .venv/bin/python ]; then
  "$python" -m venv .venv
fi
index=()
# The default Linux build of torch brings gigabytes of CUDA. Without an NVIDIA GPU take the CPU build where it is at hand.
if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null 2>&1; then
  cpu=${LLM_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
  if .venv/bin/python -c "import sys, urllib.request as r; r.urlopen(sys.argv[1] + '/torch/', timeout=5)" "$cpu" >/dev/null 2>&1; then
    index=(--extra-index-url "$cpu")
  fi
fi
target=.
[ -n "$extras" ] && target=".[$extras]"
stamp=".venv/.installed-${extras:-plain}"
if [ ! -f "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
  .venv/bin/python -m pip install --disable-pip-version-check -q "${index[@]}" -c constraints.txt "torch" -e "$target"
  touch "$stamp"
fi
echo "ready: .venv/bin/llm $(.venv/bin/llm --version | awk '{print $NF}')        source .venv/bin/activate puts llm on the path"
