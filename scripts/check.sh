#!/usr/bin/env bash
# Set up an environment and run all checks and tests:  bash scripts/check.sh [--slow] [pytest arguments]
# --slow adds the tests that take longer. LLM_TEST_DATA=FOLDER adds those that need the real data sets.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh dev
export PATH="$PWD/.venv/bin:$PATH"
select=(-m "not slow")
if [ "${1:-}" = --slow ]; then
  select=()
  shift
fi
ruff check llmcli tests scripts
ruff format --check llmcli tests scripts
mypy
# the processes of the tests share the cores; one thread each is faster than two that fight
OMP_NUM_THREADS=1 python -m pytest "${select[@]}" -n "${LLM_TEST_PROCESSES:-2}" "$@"
