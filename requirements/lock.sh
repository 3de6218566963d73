#!/usr/bin/env bash
# Writes requirements/*.txt from *.in: one file for every platform and Python 3.11
# to 3.14, each distribution pinned with its hashes, no index address in any of them.
# Pins that stand already are kept, unless --upgrade is given.
set -euo pipefail
cd "$(dirname "$0")"

lock() { # lock NAME [OPTION...]
  local name=$1
  shift
  ../.venv/bin/uv pip compile --quiet "$@" \
    --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
    --output-file "$name.txt" "$name.in"
}

for name in install run dev fuzz; do
  lock "$name" "$@"
done
# Without what they ask for: envoy.in says why.
lock envoy --no-deps "$@"
