"""Rules about end-user tokens: who believes them, and what policies ask of them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from policies.attributes import attribute_for
from policies.diagnostic import Location, shown
from policies.lint.facts import Facts, Written, clauses_of, resource_name, rules_of
from policies.lint.finding import Related, Spot
from policies.lint.registry import rule
from policies.model import Attachment, AuthorizationPolicy, RequestAuthentication


def may_meet(policy: AuthorizationPolicy, other: RequestAuthentication, root: str) -> bool:
    """Whether one workload may have both: only a sure no is a no."""
    ours, theirs = policy.metadata.namespace, other.metadata.namespace
    if root not in (ours, theirs) and ours != theirs:
        return False
    return _labels_agree(policy.attachment, other.attachment)


def _labels_agree(one: Attachment, other: Attachment) -> bool:
    theirs = other.selector or {}
    return all(theirs.get(key, value) == value for key, value in (one.selector or {}).items())


@rule("MW0701")
def token_nobody_checks(facts: Facts) -> Iterator[Spot]:
    """A condition on a token where no RequestAuthentication can have checked one."""
    authentications, root = facts.request_authentications, facts.mesh.root_namespace
    for policy in facts.policies:
        if any(may_meet(policy, each, root) for each in authentications):
            continue
        for rule_path, each_rule in rules_of(policy):
            for path, clause in clauses_of(each_rule, rule_path):
                attribute = attribute_for(clause.key)
                if attribute is not None and attribute.is_token:
                    yield Spot(
                        message=f"no RequestAuthentication checks tokens here, so"
                        f" `{shown(clause.spelled)}` is never there",
                        location=clause.location,
                        resource=resource_name(policy),
                        path=path,
                    )


@rule("MW0703")
def issuer_nobody_trusts(facts: Facts) -> Iterator[Spot]:
    """An issuer that no RequestAuthentication in reach names."""
    authentications, root = facts.request_authentications, facts.mesh.root_namespace
    for each in facts.values("request.auth.principal", "request.auth.claims[iss]"):
        near = [found for found in authentications if may_meet(each.policy, found, root)]
        known = sorted({jwt.issuer for found in near for jwt in found.jwt_rules if jwt.issuer})
        issuer = _issuer(each)
        if issuer and known and issuer not in known:
            guess = difflib.get_close_matches(issuer[:200], known, n=1)
            yield Spot(
                message=f"no RequestAuthentication in reach trusts the issuer `{shown(issuer)}`",
                location=each.value.location,
                resource=resource_name(each.policy),
                path=each.path,
                help=f"did you mean `{shown(guess[0])}`?" if guess else "",
                related=tuple(
                    Related(message="trusted here", location=found.metadata.location)
                    for found in near
                ),
            )


def _issuer(written: Written) -> str:
    """Return the issuer that a value names in full, or an empty text."""
    text = written.value.text
    if written.clause.key == "request.auth.claims[iss]":
        return "" if "*" in (text[0], text[-1]) else text
    issuer = text.rpartition("/")[0]
    # What is cut inside `https://` is another finding.
    return "" if text[0] == "*" or issuer.endswith((":/", ":")) else issuer


@rule("MW0705")
def subject_of_any_issuer(facts: Facts) -> Iterator[Spot]:
    """A request principal that ends in a text: any issuer will do."""
    for each in facts.values("request.auth.principal"):
        text = each.value.text
        if len(text) > 1 and text[0] == "*" and "/" not in text:
            yield Spot(
                message=f"`{shown(text)}` holds for every issuer: it is about the subject alone",
                location=each.value.location,
                resource=resource_name(each.policy),
                path=each.path,
            )


def _jwt_spots(resource: RequestAuthentication, index: int, message: str, key: str) -> Spot:
    origin = resource.jwt_rules[index].origin
    place = (
        Location(origin.file, origin.line, origin.column) if origin else resource.metadata.location
    )
    return Spot(
        message=message,
        location=place,
        resource=resource_name(resource),
        path=f"spec.jwtRules[{index}].{key}",
    )


@rule("MW0708")
def any_audience(facts: Facts) -> Iterator[Spot]:
    """A JWT rule that takes tokens made for anybody."""
    for resource in facts.request_authentications:
        for index, jwt in enumerate(resource.jwt_rules):
            if not jwt.audiences:
                yield _jwt_spots(resource, index, f"tokens of `{shown(jwt.issuer)}` are taken"
                                 " whomever they are for", "audiences")  # fmt: skip


@rule("MW0713")
def token_in_the_url(facts: Facts) -> Iterator[Spot]:
    """A JWT rule that takes tokens from the query or a cookie."""
    for resource in facts.request_authentications:
        for index, jwt in enumerate(resource.jwt_rules):
            if jwt.from_params or jwt.from_cookies:
                key = "fromParams" if jwt.from_params else "fromCookies"
                what = "the query, which logs keep" if jwt.from_params else "a cookie"
                yield _jwt_spots(resource, index, f"a token is taken from {what}", key)
