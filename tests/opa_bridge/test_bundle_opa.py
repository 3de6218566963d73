"""Bundles of the real `opa build` and `opa sign`, and our hashes against OPA's own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from bundling import ALLOW_REGO, FILES, Signer, packed, write_folder
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from opa_process import MISSING, opa_binary

from opa_bridge.bundle_archive import read_archive
from opa_bridge.bundle_contents import read_bundle
from opa_bridge.bundle_policy import policy_of
from opa_bridge.bundle_signature import SIGNATURES, Signing, verify_files
from opa_bridge.bundle_yaml import read_yaml
from opa_bridge.errors import PolicyBundleError
from opa_bridge.provider import ProviderOptions, provide
from policies.decision import Effect
from policies.request import Request, Workload

pytestmark = [
    pytest.mark.opa,
    pytest.mark.skipif(opa_binary() is None, reason=MISSING),
]


def opa(*arguments: str, cwd: Path) -> str:
    """Run OPA and return what it prints."""
    command = [str(opa_binary()), *arguments]
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def opa_build(folder: Path, *arguments: str) -> bytes:
    """Return the archive that `opa build` makes of a bundle's folder."""
    archive = folder.parent / "built.tar.gz"
    opa("build", "--bundle", ".", "--output", str(archive), *arguments, cwd=folder)
    return archive.read_bytes()


def test_what_opa_builds_is_read(tmp_path: Path) -> None:
    """An archive of `opa build` brings the same policy and data as its folder."""
    folder = write_folder(tmp_path / "bundle", {**FILES, "settings/more/data.yaml": b"z: on\n"})
    files = read_archive(opa_build(folder, "--revision", "r9"))
    found = read_bundle("b", files, None)

    assert "r9" == found.revision
    assert [("envoy",), ("settings",)] == sorted(found.manifest.roots)
    assert {"settings": {"methods": ["GET"], "more": {"z": "on"}}} == found.data
    assert 1 == len(found.modules)


@pytest.mark.parametrize("target", ["wasm", "plan"])
def test_other_targets_bring_their_rego_or_are_refused(tmp_path: Path, target: str) -> None:
    """A bundle built for wasm is refused with advice; a plan beside the Rego is let be."""
    folder = write_folder(tmp_path / "bundle", FILES)
    raw = opa_build(folder, "--target", target, "--entrypoint", "envoy/authz/allow")
    if target == "plan":
        assert read_bundle("b", read_archive(raw), None).modules
        return
    with pytest.raises(PolicyBundleError, match="wasm"):
        read_bundle("b", read_archive(raw), None)


@pytest.mark.parametrize(
    "algorithm",
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "HS256"],
)
def test_what_opa_signs_is_verified(tmp_path: Path, algorithm: str) -> None:
    """A signature of `opa build --signing-key` holds here, and for nothing that was changed."""
    signer = Signer(algorithm, key_id="k1")
    folder = write_folder(tmp_path / "bundle", {**FILES, "settings/more/data.yaml": b"z: 1.50\n"})
    key, claims = tmp_path / "key.pem", tmp_path / "claims.json"
    key.write_bytes(signer.private_pem)
    claims.write_text(json.dumps({"scope": "mesh", "keyid": "k1"}))
    files = read_archive(
        opa_build(folder, "--signing-alg", algorithm, "--signing-key", str(key),
                  "--claims-file", str(claims))
    )  # fmt: skip
    signing = Signing(keys=(signer.key,), scope="mesh")

    assert read_bundle("b", files, signing).is_signed
    for name in files.keys() - {SIGNATURES}:
        with pytest.raises(PolicyBundleError):
            verify_files({**files, name: files[name] + b"#1"}, signing)


def test_what_we_sign_is_verified_by_opa(tmp_path: Path) -> None:
    """Our own reading of the format is OPA's: it takes a bundle that was signed by it."""
    signer = Signer("ES256", key_id="k1")
    key = tmp_path / "public.pem"
    key.write_bytes(signer.public)
    archive = tmp_path / "signed.tar.gz"
    archive.write_bytes(packed(signer.signed(FILES)))
    verified = ("--verification-key", str(key), "--verification-key-id", "k1")

    opa("build", "--bundle", str(archive), *verified, "--signing-alg", "ES256", cwd=tmp_path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=4), below),
    max_leaves=20,
)
SCALARS = st.one_of(
    st.text(st.sampled_from("0123456789+-._eExXoObB:TZ~naifyNI"), min_size=1, max_size=8),
    st.floats().map(str),
    st.integers(-(2**70), 2**70).map(str),
    st.floats(1e-9, 1e25).map(repr),
    st.sampled_from(["on", "No", "y", "null", "~", "True", "2001-12-14", "1:2:3", "<<", "1_0"]),
)


def opa_signs(folder: Path, files: dict[str, bytes]) -> None:
    """Prove that OPA's signature over the files holds for us."""
    signer = Signer("HS256")
    write_folder(folder / "bundle", files)
    (folder / "secret").write_bytes(signer.public)
    # From inside: `opa sign` puts the folder's own name before each file otherwise.
    opa("sign", "--signing-alg", "HS256", "--signing-key", "../secret", "--bundle", ".",
        cwd=folder / "bundle")  # fmt: skip
    signed = {**files, SIGNATURES: (folder / "bundle" / SIGNATURES).read_bytes()}
    verify_files(signed, Signing(keys=(signer.key,)))


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(st.lists(JSON, min_size=10, max_size=20))
def test_hashes_of_json_are_those_of_opa(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any]
) -> None:
    """Whatever JSON a data file holds, in whatever spelling, the hash is OPA's."""
    folder = tmp_path_factory.mktemp("signed")
    files = {
        f"d{n}/data.json": json.dumps({"v": v}, indent=n % 3, ensure_ascii=n % 2 == 0).encode()
        for n, v in enumerate(values)
    }
    files["n/data.json"] = b'{"a": [1.0, 1e3, 1E+2, -0, 0.10, 1e400, 123456789012345678901.5]}'
    opa_signs(folder, files)


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(st.lists(SCALARS, min_size=40, max_size=40))
def test_scalars_of_yaml_are_those_of_opa(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str]
) -> None:
    """Any scalar that we read in YAML has OPA's value, and the hash of its file is OPA's."""
    folder = tmp_path_factory.mktemp("yaml")
    files: dict[str, bytes] = {}
    values: dict[str, Any] = {}
    for n, text in enumerate(texts):
        raw = f"v: {text}\n".encode()
        try:
            values[f"d{n}"] = read_yaml(raw, "data.yaml")
        except PolicyBundleError:
            continue
        files[f"d{n}/data.yaml"] = raw
    opa_signs(folder, files)
    answer = json.loads(opa("eval", "--bundle", "bundle", "data", cwd=folder))
    found = answer["result"][0]["expressions"][0]["value"]

    differing = {
        k: (files[f"{k}/data.yaml"], values[k], found[k]) for k in values if values[k] != found[k]
    }

    assert {} == differing


def test_a_signed_folder_with_policy_only(tmp_path: Path) -> None:
    """`opa sign` over a folder without manifest names what we read."""
    opa_signs(tmp_path, {"envoy/allow.rego": ALLOW_REGO, "README.md": b"words\n"})


def test_a_built_bundle_answers_as_opa_does(tmp_path: Path) -> None:
    """What `opa build --optimize` makes of a policy is evaluated here with OPA's verdicts."""
    folder = write_folder(tmp_path / "bundle", FILES)
    raw = opa_build(folder, "--optimize", "1", "--entrypoint", "envoy/authz/allow")
    archive = tmp_path / "built.tar.gz"
    policy = policy_of([read_bundle("b", read_archive(raw), None)], "envoy/authz/allow")
    options = ProviderOptions(budget_seconds=10, workers=1)
    provider = provide("p", policy, "envoy/authz/allow", options)
    for method in ("GET", "PUT"):
        request = Request(
            method=method, path="/", host="h", headers={}, workload=Workload(namespace="n")
        )
        asked = tmp_path / "input.json"
        asked.write_text(json.dumps({"attributes": {"request": {"http": {"method": method}}}}))
        answer = json.loads(
            opa("eval", "--bundle", str(archive), "--input", str(asked),
                "data.envoy.authz.allow", cwd=tmp_path)
        )  # fmt: skip
        value = answer["result"][0]["expressions"][0]["value"]

        assert value == (provider.evaluate(request).effect is Effect.ALLOW)
