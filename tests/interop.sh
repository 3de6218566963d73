#!/bin/sh
# The stage that a normal run leaves out: judges and clients of others, built here with Go and kept
# in .venv/interop, and the long forms of what a normal run does briefly.
set -eu
cd "$(dirname "$0")/.."

tools="$PWD/.venv/interop"
mkdir -p "$tools"

# build NAME MODULE@VERSION: once, pinned; without Go the tests that need it say so and are skipped.
build() {
    if [ ! -x "$tools/$1" ]; then
        command -v go >/dev/null || return 0
        echo "building $1"
        GOBIN="$tools" GOFLAGS=-modcacherw go install "$2"
    fi
}

# build_here NAME FOLDER: a program of ours in Go, its modules pinned by the go.sum beside it.
build_here() {
    if [ ! -x "$tools/$1" ] || [ "$2/main.go" -nt "$tools/$1" ]; then
        command -v go >/dev/null || return 0
        echo "building $1"
        (cd "$2" && GOFLAGS=-modcacherw go build -o "$tools/$1" .)
    fi
}

build_here gospiffe tests/ca/go_spiffe
build zlint github.com/zmap/zlint/v3/cmd/zlint@v3.6.6

PATH="$tools:$PATH" MESHWARDEN_LONG=1 .venv/bin/python -m pytest -v \
    tests/ca/test_ca_rotation_envoy.py \
    tests/ca/test_ca_workload_api.py::TestSpiffeClient \
    tests/ca/test_ca_go_spiffe.py \
    tests/ca/test_ca_profiles.py \
    tests/ca/test_ca_faults.py \
    tests/ca/test_ca_status.py \
    tests/ca/test_ca_streams.py \
    tests/opa_bridge/test_direct_opa.py \
    tests/opa_bridge/test_direct_patterns.py \
    "$@"
