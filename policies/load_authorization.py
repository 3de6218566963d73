"""Reads AuthorizationPolicy: rules, fields and conditions, checked by Istio's own rules."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from policies.attributes import attribute_for, known_keys
from policies.dry_run_annotation import read_dry_run
from policies.fields import Fields, Findings
from policies.load_metadata import read_attachment
from policies.model import Action, AuthorizationPolicy, Clause, Metadata, Rule

_SPEC_FIELDS = ("selector", "targetRef", "targetRefs", "action", "provider", "rules")
_SOURCE_KEYS = {
    "principals": "source.principal",
    "requestPrincipals": "request.auth.principal",
    "namespaces": "source.namespace",
    "serviceAccounts": "source.serviceAccount",
    "trustDomains": "source.trustDomain",
    "ipBlocks": "source.ip",
    "remoteIpBlocks": "remote.ip",
}
_OPERATION_KEYS = {
    "hosts": "operation.hosts",
    "ports": "destination.port",
    "methods": "operation.methods",
    "paths": "operation.paths",
}
_ACCOUNTS_MAX = 16


def _negated(field: str) -> str:
    return f"not{field[0].upper()}{field[1:]}"


_SOURCE_FIELDS = tuple(name for key in _SOURCE_KEYS for name in (key, _negated(key)))
_OPERATION_FIELDS = tuple(name for key in _OPERATION_KEYS for name in (key, _negated(key)))


def read_authorization_policy(
    fields: Fields, metadata: Metadata, findings: Findings
) -> AuthorizationPolicy:
    """Return the policy; what is wrong with it is in `findings`."""
    spec = fields.child("spec", _SPEC_FIELDS)
    action = _read_action(spec, findings)
    provider = spec.child("provider", ("name",)) if spec else None
    provider_name = provider.text("name") if provider else ""
    rules = tuple(_read_rules(spec, action, findings)) if spec else ()
    place = spec.node.location if spec else fields.node.location
    if action is Action.CUSTOM and not provider_name:
        findings.error("no-provider", "a CUSTOM policy must name `spec.provider.name`", place)
    if action is not Action.CUSTOM and spec is not None and spec.has("provider"):
        findings.error(
            "stray-provider", f"`spec.provider` is not allowed with action {action}",
            spec.place("provider"), "did you mean `action: CUSTOM`?",
        )  # fmt: skip
    # "DENY without rules" and "CUSTOM without rules" never match: Istio refuses them.
    if action in (Action.DENY, Action.CUSTOM) and not rules:
        findings.error(
            "no-rules", f"a {action} policy without `rules` never matches", place,
            "write `rules: [{}]` to match every request",
        )  # fmt: skip
    return AuthorizationPolicy(
        metadata=metadata,
        attachment=read_attachment(spec, findings),
        action=action,
        rules=rules,
        provider=provider_name,
        dry_run=read_dry_run(metadata, action, findings),
    )


def _read_action(spec: Fields | None, findings: Findings) -> Action:
    # "ALLOW ... is the default type."
    text = spec.text("action", Action.ALLOW) if spec else Action.ALLOW
    try:
        return Action(text)
    except ValueError:
        assert spec is not None
        findings.error(
            "unknown-action", f"unknown action `{text}`", spec.place("action"),
            f"known: {', '.join(Action)}",
        )  # fmt: skip
        # WHY DENY: the set is refused anyway, and nothing later complains of a provider.
        return Action.DENY


def _read_rules(spec: Fields, action: Action, findings: Findings) -> Iterator[Rule]:
    for rule in spec.children("rules", ("from", "to", "when")):
        sources = _read_wrapped(rule, "from", "source", _SOURCE_KEYS, _SOURCE_FIELDS, findings)
        operations = _read_wrapped(
            rule, "to", "operation", _OPERATION_KEYS, _OPERATION_FIELDS, findings
        )
        when = tuple(_read_conditions(rule, findings))
        if action is Action.CUSTOM:
            clauses = [clause for group in sources for clause in group] + list(when)
            _refuse_identity(clauses, findings)
        yield Rule(
            sources=tuple(sources),
            operations=tuple(operations),
            when=when,
            location=rule.node.location,
        )


def _read_wrapped(
    rule: Fields,
    key: str,
    inner: str,
    attributes: dict[str, str],
    known: tuple[str, ...],
    findings: Findings,
) -> list[tuple[Clause, ...]]:
    """Return the clauses of each `from`/`to` entry."""
    groups: list[tuple[Clause, ...]] = []
    for entry in rule.children(key, (inner,)):
        fields = entry.child(inner, known)
        clauses = () if fields is None else tuple(_read_clauses(fields, attributes, findings))
        if not clauses:
            # An empty source or operation would match anything.
            findings.error(
                "empty-match", f"`{entry.at(inner)}` names no field", entry.node.location,
                f"leave `{key}` out to match any",
            )  # fmt: skip
        elif fields is not None and inner == "source":
            _check_service_accounts(fields, findings)
        groups.append(clauses)
    return groups


def _read_clauses(
    fields: Fields, attributes: dict[str, str], findings: Findings
) -> Iterator[Clause]:
    for field, key in attributes.items():
        clause = Clause(
            key=key,
            spelled=field,
            values=fields.values(field),
            not_values=fields.values(_negated(field)),
            location=fields.place(field if fields.has(field) else _negated(field)),
        )
        if not clause.values and not clause.not_values:
            continue
        _check_values(clause, findings)
        if key == "source.trustDomain":
            for value in clause.values + clause.not_values:
                if "/" in value.text:
                    findings.error(
                        "bad-value", f"the trust domain `{value.text}` holds a `/`", value.location
                    )
        yield clause


def _check_service_accounts(fields: Fields, findings: Findings) -> None:
    accounts = fields.has("serviceAccounts") or fields.has("notServiceAccounts")
    others = [
        name
        for key in ("principals", "namespaces")
        for name in (key, _negated(key))
        if fields.has(name)
    ]
    if accounts and others:
        findings.error(
            "mixed-source", f"service accounts cannot stand beside `{others[0]}` in one source",
            fields.place(others[0]),
        )  # fmt: skip
    for name in ("serviceAccounts", "notServiceAccounts"):
        if len(fields.items(name)) > _ACCOUNTS_MAX:
            findings.error(
                "too-many", f"`{fields.at(name)}` has more than {_ACCOUNTS_MAX} values",
                fields.place(name),
            )  # fmt: skip


def _read_conditions(rule: Fields, findings: Findings) -> Iterator[Clause]:
    for entry in rule.children("when", ("key", "values", "notValues")):
        key = entry.text("key")
        clause = Clause(
            key=key,
            spelled=key,
            values=entry.values("values"),
            not_values=entry.values("notValues"),
            location=entry.place("key"),
        )
        if key.startswith("operation.") or attribute_for(key) is None:
            near = difflib.get_close_matches(key, known_keys(), n=1)
            help_ = f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known_keys())}"
            findings.error("unknown-key", f"unknown `when` key `{key}`", clause.location, help_)
            continue
        if not clause.values and not clause.not_values:
            findings.error(
                "empty-match", f"`{entry.path}` has neither `values` nor `notValues`",
                clause.location,
            )  # fmt: skip
        _check_values(clause, findings)
        yield clause


def _check_values(clause: Clause, findings: Findings) -> None:
    attribute = attribute_for(clause.key)
    assert attribute is not None
    for value in clause.values + clause.not_values:
        problem = attribute.problem(value.text)
        if problem:
            findings.error(
                "bad-value", f"`{value.text}` in `{clause.spelled}`: {problem}", value.location
            )


def _refuse_identity(clauses: list[Clause], findings: Findings) -> None:
    """Refuse identity in CUSTOM rules, as Istio does: its trigger runs before any is known."""
    for clause in clauses:
        attribute = attribute_for(clause.key)
        if attribute is not None and (attribute.is_peer or attribute.is_token):
            findings.error(
                "custom-identity", f"`{clause.spelled}` is not allowed in a CUSTOM policy",
                clause.location, "let the provider decide on identity",
            )  # fmt: skip
