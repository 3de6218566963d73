"""What a bundle brings: modules, data nested by path, and nothing outside of its roots."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from bundling import ALLOW_REGO, FILES, changed

from opa_bridge.bundle_contents import Bundle, combined, read_bundle
from opa_bridge.errors import PolicyBundleError


def manifest(**fields: object) -> bytes:
    """A manifest."""
    return json.dumps(fields).encode()


def bundle(files: Mapping[str, bytes], name: str = "b") -> Bundle:
    """The bundle of unsigned files."""
    return read_bundle(name, files, None)


def test_data_is_nested_by_its_path() -> None:
    """Each data file, at any depth, is a part of one document; other files mean nothing."""
    found = bundle(
        {
            "data.json": b'{"top": 1, "a": {"x": 1}}',
            "a/data.yaml": b"y: on",
            "a/b/data.yml": b"[1, 2]",
            "a/other.json": b'{"ignored": true}',
            "README.md": b"\xff",
        }
    )

    assert {"top": 1, "a": {"x": 1, "y": "on", "b": [1, 2]}} == found.data
    assert () == found.modules


def test_a_bundle_tells_who_it_is() -> None:
    """Revision, metadata, size and a digest that changes with any file."""
    files = changed(FILES, __manifest=manifest(revision="r7", metadata={"team": "a"}))
    found = bundle(files)

    assert ("r7", {"team": "a"}) == (found.revision, found.manifest.metadata)
    assert sum(map(len, files.values())) == found.size
    assert not found.is_signed
    assert found.digest == bundle(files).digest
    assert found.digest != bundle({**files, "README": b""}).digest


def test_only_pure_tests_are_left_out() -> None:
    """A `_test.rego` file that holds anything but tests is policy, as for OPA."""
    tests = b"package envoy.authz_test\n\ntest_allow if true\n\ntodo_test_b if false\n"
    more = b"package envoy.authz\n\ntest_x if true\n\ndeny if true\n"
    roots = manifest(roots=["envoy", "settings"])
    found = bundle({**FILES, ".manifest": roots, "a_test.rego": tests, "b_test.rego": more})

    assert ["b/b_test.rego", "b/envoy/allow.rego"] == [file for file, _ in found.modules]


def test_an_unknown_key_of_the_manifest_is_warned_of() -> None:
    """A misspelt `roots` would own everything without a word."""
    found = bundle(changed(FILES, __manifest=manifest(root=["envoy"])))

    told = "b/.manifest: warning: `.manifest` has a key `root` that means nothing"
    assert [f"{told} [bundle.manifest] (did you mean `roots`?)"] == list(map(str, found.warnings))


REFUSED = {
    "empty": ({"README": b"x"}, "bundle.empty", "neither policy nor data"),
    "data outside": (
        {".manifest": manifest(roots=["a"]), "b/data.json": b"{}"}, "bundle.roots", "data at `b`",
    ),
    "data beside a deeper root": (
        {".manifest": manifest(roots=["a/b"]), "a/data.json": b'{"b": 1, "c": 2}'},
        "bundle.roots", "data at `a/c`",
    ),
    "no object above a root": (
        {".manifest": manifest(roots=["a/b"]), "a/data.json": b"1"}, "bundle.roots", "data at `a`",
    ),
    "a module outside": (
        {".manifest": manifest(roots=["envoyx"]), "p.rego": ALLOW_REGO},
        "bundle.roots", "package `envoy/authz`, outside the roots `envoyx`",
    ),
    "nothing owned": (
        {".manifest": manifest(roots=[]), "data.json": b'{"a": 1}'}, "bundle.roots", "data at `a`",
    ),
    "overlapping roots": (
        changed(FILES, __manifest=manifest(roots=["a", "a/b"])), "bundle.manifest", "overlapping",
    ),
    "roots of another shape": (
        changed(FILES, __manifest=manifest(roots="a")), "bundle.manifest", "no list of texts",
    ),
    "an old Rego": (
        changed(FILES, __manifest=manifest(rego_version=0)), "bundle.manifest", "Rego version `0`",
    ),
    "an old Rego in one file": (
        changed(FILES, __manifest=manifest(rego_version=1, file_rego_versions={"/x": 0})),
        "bundle.manifest", "Rego version `0`",
    ),
    "wasm resolvers": (
        changed(FILES, __manifest=manifest(wasm=[{"entrypoint": "a"}])),
        "bundle.manifest", "wasm modules, which are not run",
    ),
    "wasm": ({**FILES, "policy.wasm": b"\0asm"}, "bundle.unsupported", "wasm is not run here"),
    "a delta": ({"patch.json": b'{"data": []}'}, "bundle.unsupported", "a delta bundle"),
    "protobuf": ({**FILES, ".manifest.pb": b""}, "bundle.unsupported", "protobuf"),
    "a revision of another shape": (
        changed(FILES, __manifest=manifest(revision=7)), "bundle.manifest", "no text",
    ),
    "a manifest that is a list": (changed(FILES, __manifest=b"[]"), "bundle.manifest", "object"),
    "a folder too many": (
        {f"out/{name}": content for name, content in FILES.items()}, "bundle.manifest", "first",
    ),
    "two data files at odds": (
        {"data.json": b'{"a": {"x": 1}}', "a/data.json": b'{"x": 2}'}, "bundle.data", "sets `x`",
    ),
    "data at the top that is no object": ({"data.json": b"[1]"}, "bundle.data", "not an object"),
    "data where a rule stands": (
        {"p.rego": ALLOW_REGO, "data.json": b'{"envoy": {"authz": {"allow": true}}}'},
        "bundle.data", "`envoy/authz/allow` is a rule",
    ),
    "a value where a package stands": (
        {"p.rego": ALLOW_REGO, "data.json": b'{"envoy": 1}'}, "bundle.data", "is a rule",
    ),
    "a hidden folder": ({".x/data.json": b"{}"}, "bundle.data", "begins with a dot"),
    "Rego that is none": ({"p.rego": b"hello"}, "bundle.module", "package clause"),
    "Rego that is not UTF-8": ({"p.rego": b"package a\xff"}, "bundle.module", "not UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "code", "why"), REFUSED.values(), ids=REFUSED)
def test_a_bundle_that_means_something_else_is_refused(
    files: Mapping[str, bytes], code: str, why: str
) -> None:
    """Nothing of it is taken, and the error says which rule it breaks."""
    with pytest.raises(PolicyBundleError, match=why) as refusal:
        bundle(files)

    assert code == refusal.value.code


def test_bundles_go_together_when_their_roots_do() -> None:
    """Policy of one bundle and data of another make one policy; an overlap is refused."""
    policy = bundle({".manifest": manifest(roots=["envoy"]), "p.rego": ALLOW_REGO}, "policy")
    data = bundle(
        {".manifest": manifest(roots=["settings"]), "settings/data.json": b'{"methods": []}'},
        "data",
    )
    inner = bundle({".manifest": manifest(roots=["envoy/x"]), "p.rego": b"package envoy.x"}, "in")
    everything = bundle({"data.json": b'{"q": 1}'}, "all")

    modules, document = combined([policy, data])
    assert [("policy/p.rego", ALLOW_REGO.decode())] == modules
    assert {"settings": {"methods": []}} == document
    for other in (inner, everything, policy):
        with pytest.raises(PolicyBundleError, match="overlap") as refusal:
            combined([policy, other])
        assert "bundle.roots" == refusal.value.code
