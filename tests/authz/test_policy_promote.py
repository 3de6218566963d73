"""`policy promote`: the annotation goes, every comment and every other character stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from commanding import run_policy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dryrun.promote import without_dry_run
from policies.load import read_resources
from policies.model import AuthorizationPolicy

HEAD = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n"
SPEC = "spec: {rules: [{}]} # all\n"
OTHER = f"{HEAD}metadata: {{name: other, namespace: shop, annotations: {{istio.io/dry-run: 'true'}}}}\n{SPEC}"  # noqa: E501
# Each: what the metadata are, and what they are afterwards.
CASES = {
    "alone": (
        "metadata:\n  name: p # who\n  namespace: shop\n  annotations:\n"
        '    istio.io/dry-run: "true"\n',
        "metadata:\n  name: p # who\n  namespace: shop\n",
    ),
    "among others": (
        "metadata:\n  annotations:\n    a: b # a\n    istio.io/dry-run: 'True'\n    # c\n    c: d\n"
        "  name: p\n  namespace: shop\n",
        "metadata:\n  annotations:\n    a: b # a\n    # c\n    c: d\n"
        "  name: p\n  namespace: shop\n",
    ),
    "first among others": (
        "metadata:\n  annotations: # why\n    istio.io/dry-run: 't' # until May\n    c: d\n"
        "  name: p\n  namespace: shop\n",
        "metadata:\n  annotations: # why\n    # until May\n    c: d\n"
        "  name: p\n  namespace: shop\n",
    ),
    "comments of lines that go": (
        "metadata:\n  # before\n  annotations: # of all\n    # of it\n"
        '    istio.io/dry-run: "true" # it\'s so\n# after\n  name: p\n  namespace: shop\n',
        "metadata:\n  # before\n  # of all\n    # of it\n  # it's so\n# after\n"
        "  name: p\n  namespace: shop\n",
    ),
    "brackets in a block": (
        'metadata:\n  name: p\n  annotations: {"istio.io/dry-run": "1"} # x\n  namespace: shop\n',
        "metadata:\n  name: p\n  # x\n  namespace: shop\n",
    ),
    "brackets, first": (
        "metadata: {annotations: {istio.io/dry-run: T, a: b}, name: p, namespace: shop}\n",
        "metadata: {annotations: {a: b}, name: p, namespace: shop}\n",
    ),
    "brackets, last": (
        "metadata: {name: p, namespace: shop, annotations: {a: b, istio.io/dry-run: 'true' }}\n",
        "metadata: {name: p, namespace: shop, annotations: {a: b }}\n",
    ),
    "brackets, alone": (
        "metadata: {name: p, namespace: shop, annotations: {istio.io/dry-run: 'true'}} # m\n",
        "metadata: {name: p, namespace: shop} # m\n",
    ),
    "carriage returns": (
        "metadata:\r\n  name: p\r\n  namespace: shop\r\n  annotations:\r\n"
        '    istio.io/dry-run: "true"\r\n',
        "metadata:\r\n  name: p\r\n  namespace: shop\r\n",
    ),
    "JSON": (
        'metadata: {"name": "p", "namespace": "shop", '
        '"annotations": {"istio.io/dry-run": "true"}}\n',
        'metadata: {"name": "p", "namespace": "shop"}\n',
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("name", ["p", "shop/p"])
def test_promote(tmp_path: Path, case: tuple[str, str], name: str) -> None:
    """The file says the same afterwards, but for the one annotation."""
    before, after = case
    frame = f"# the head\n{OTHER}---\n{HEAD}%s{SPEC}# the foot\n"
    path = tmp_path / "p.yaml"
    path.write_bytes((frame % before).encode())
    path.chmod(0o640)
    shown = run_policy("promote", name, "--policies", tmp_path, "--diff")
    assert frame % before == path.read_bytes().decode()
    result = run_policy("promote", name, "--policies", tmp_path)
    assert (0, 0) == (shown.exit_code, result.exit_code), result.stderr
    assert frame % after == path.read_bytes().decode()
    assert shown.stdout.startswith("---")
    assert 0o640 == path.stat().st_mode & 0o777
    assert ["p.yaml"] == [each.name for each in tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("text", "name", "said"),
    [
        (OTHER, "absent", "there is no AuthorizationPolicy `absent`"),
        (OTHER.replace("'true'", "'false'"), "other", "is enforced already"),
        (OTHER + "---\n" + OTHER.replace("shop", "jobs"), "other", "several policies"),
        (
            f"{HEAD}metadata: {{name: p, namespace: shop, annotations: &a "
            f"{{istio.io/dry-run: 't'}}}}\n{SPEC}status: {{kept: *a}}\n",
            "p",
            "cannot be cut out",
        ),
    ],
)
def test_refused(tmp_path: Path, text: str, name: str, said: str) -> None:
    """What cannot be promoted leaves the file as it is and ends with 2."""
    path = tmp_path / "p.yaml"
    path.write_text(text)
    result = run_policy("promote", name, "--policies", path)
    assert 2 == result.exit_code
    assert said in result.stderr
    assert text == path.read_text()


WORDS = st.sampled_from(["a", "it's", "# no", "'", '"', "b: c", "ü", "{", "*", "- x"])
COMMENTS = st.lists(WORDS, max_size=2).map(lambda found: f" # {' '.join(found)}" if found else "")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(comments=st.lists(COMMENTS, min_size=6, max_size=6), more=st.booleans())
def test_comments_survive(comments: list[str], more: bool) -> None:
    """Whatever stands in comments, all of it is there afterwards, and the policy is enforced."""
    lines = ["metadata:", "  annotations:", '    istio.io/dry-run: "true"',
             *(["    a: b"] if more else []), "  name: p", "  namespace: shop"]  # fmt: skip
    text = HEAD + "".join(
        f"{line}{comment}\n" for line, comment in zip(lines, comments, strict=False)
    ) + SPEC  # fmt: skip
    edited = without_dry_run(text, "p.yaml", "shop", "p")
    for comment in comments[: len(lines)]:
        assert comment.strip() in edited
    (policy,) = read_resources([("p.yaml", edited)]).resources
    assert isinstance(policy, AuthorizationPolicy)
    assert not policy.dry_run
    assert ({"a": "b"} if more else {}) == dict(policy.metadata.annotations)
