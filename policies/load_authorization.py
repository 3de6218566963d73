"""Reads AuthorizationPolicy: rules, fields and conditions, checked by Istio's own rules.

Spec: Istio AuthorizationPolicy reference and its CRD; what Istio accepts and Envoy
would not take is refused here too.
"""

from __future__ import annotations

from collections.abc import Iterator

from policies.attributes import attribute_for, known_keys
from policies.diagnostic import shown
from policies.dry_run_annotation import read_dry_run
from policies.fields import Fields, Findings, suggestion
from policies.load_metadata import read_attachment
from policies.model import Action, AuthorizationPolicy, Clause, Metadata, Rule, Value
from policies.traps import warn_of_clause, warn_of_rule

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
_NEGATED = {
    key: f"not{key[0].upper()}{key[1:]}" for keys in (_SOURCE_KEYS, _OPERATION_KEYS) for key in keys
}
_SOURCE_FIELDS = tuple(name for key in _SOURCE_KEYS for name in (key, _NEGATED[key]))
_OPERATION_FIELDS = tuple(name for key in _OPERATION_KEYS for name in (key, _NEGATED[key]))
_ACCOUNTS_MAX = 16
# "maxItems" of the CRD.
_RULES_MAX = 512
_SOURCES_MAX = 512


def read_authorization_policy(
    fields: Fields, metadata: Metadata, findings: Findings
) -> AuthorizationPolicy:
    """Return the policy; what is wrong with it is in `findings`."""
    spec = fields.child("spec", _SPEC_FIELDS)
    action = _read_action(spec)
    rules = tuple(_read_rules(spec, action)) if spec else ()
    # "DENY without rules" and "CUSTOM without rules" never match: Istio refuses them.
    if action in (Action.DENY, Action.CUSTOM) and not rules:
        (spec or fields).error(
            "no-rules", f"a {action} policy without `rules` never matches", "",
            "write `rules: [{}]` to match every request",
        )  # fmt: skip
    return AuthorizationPolicy(
        metadata=metadata,
        attachment=read_attachment(spec, findings),
        action=action,
        rules=rules,
        provider=_read_provider(spec, action),
        dry_run=read_dry_run(metadata, action, findings),
    )


def _read_action(spec: Fields | None) -> Action:
    # "ALLOW ... is the default type."
    text = spec.text("action", Action.ALLOW) if spec else Action.ALLOW
    try:
        return Action(text)
    except ValueError:
        assert spec is not None
        spec.error(
            "unknown-action", f"unknown action `{shown(text)}`", "action",
            suggestion(text.upper(), list(Action)),
        )  # fmt: skip
        # WHY DENY: the set is refused anyway, and nothing later complains of a provider.
        return Action.DENY


def _read_provider(spec: Fields | None, action: Action) -> str:
    if spec is None:
        return ""
    provider = spec.child("provider", ("name",))
    name = provider.text("name") if provider else ""
    if action is Action.CUSTOM and not name:
        spec.error("no-provider", "a CUSTOM policy must name `spec.provider.name`", "provider")
    if action is not Action.CUSTOM and spec.has("provider"):
        spec.error(
            "stray-provider", f"`spec.provider` is not allowed with action {action}", "provider",
            "did you mean `action: CUSTOM`?",
        )  # fmt: skip
    return name


def _read_rules(spec: Fields, action: Action) -> Iterator[Rule]:
    if len(spec.items("rules")) > _RULES_MAX:
        spec.error("too-many", f"more than {_RULES_MAX} rules", "rules", "split the policy")
    for fields in spec.children("rules", ("from", "to", "when")):
        if len(fields.items("from")) > _SOURCES_MAX:
            fields.error("too-many", f"more than {_SOURCES_MAX} sources", "from", "split the rule")
        rule = Rule(
            sources=tuple(_read_sources(fields, action)),
            operations=tuple(_read_operations(fields, action)),
            when=tuple(_read_conditions(fields, action)),
            location=fields.node.location,
        )
        warn_of_rule(rule, action, fields)
        yield rule


def _read_sources(rule: Fields, action: Action) -> Iterator[tuple[Clause, ...]]:
    for entry in rule.children("from", ("source",)):
        source = entry.child("source", _SOURCE_FIELDS)
        clauses = tuple(_read_clauses(source, _SOURCE_KEYS, action)) if source else ()
        if source is None or not clauses:
            _refuse_empty(entry, "source", "from")
        else:
            _check_service_accounts(source)
        yield clauses


def _read_operations(rule: Fields, action: Action) -> Iterator[tuple[Clause, ...]]:
    for entry in rule.children("to", ("operation",)):
        operation = entry.child("operation", _OPERATION_FIELDS)
        clauses = tuple(_read_clauses(operation, _OPERATION_KEYS, action)) if operation else ()
        if not clauses:
            _refuse_empty(entry, "operation", "to")
        yield clauses


def _refuse_empty(entry: Fields, inner: str, key: str) -> None:
    """Refuse an empty source or operation: it would match anything."""
    entry.error(
        "empty-match", f"`{entry.at(inner)}` names no field", inner,
        f"leave `{key}` out to match any",
    )  # fmt: skip


def _read_clauses(fields: Fields, attributes: dict[str, str], action: Action) -> Iterator[Clause]:
    entries = fields.node.entries
    for field, key in attributes.items():
        negated = _NEGATED[field]
        if field not in entries and negated not in entries:
            continue
        clause = Clause(
            key=key,
            spelled=field,
            values=fields.values(field),
            not_values=fields.values(negated),
            location=fields.place(field if fields.has(field) else negated),
        )
        if not clause.values and not clause.not_values:
            continue
        _check_clause(clause, fields, (field, negated), action)
        yield clause


def _read_conditions(rule: Fields, action: Action) -> Iterator[Clause]:
    for entry in rule.children("when", ("key", "values", "notValues")):
        key = entry.text("key")
        clause = Clause(
            key=key,
            spelled=key,
            values=entry.values("values"),
            not_values=entry.values("notValues"),
            location=entry.place("key"),
        )
        if not key:
            entry.error("empty-value", f"`{entry.at('key')}` is empty", "key")
        elif not key.isprintable() or key.startswith("operation.") or attribute_for(key) is None:
            entry.error(
                "unknown-key", f"unknown `when` key `{shown(key)}`", "key",
                suggestion(key, known_keys()),
            )  # fmt: skip
        else:
            _check_clause(clause, entry, ("values", "notValues"), action)
            if not clause.values and not clause.not_values:
                entry.error(
                    "empty-match", f"`{entry.path}` has neither `values` nor `notValues`", "key"
                )
            yield clause


def _check_clause(clause: Clause, fields: Fields, names: tuple[str, str], action: Action) -> None:
    """Check the values of a clause; `names` are the fields that hold them and their negation."""
    attribute = attribute_for(clause.key)
    assert attribute is not None
    for name, values in zip(names, (clause.values, clause.not_values), strict=True):
        for value in values:
            problem = attribute.problem(value.text)
            if problem:
                _refuse_value(clause, fields, name, value, problem)
            # Istio checks this in `source` alone; as a condition, `td/ns/a` even works.
            elif clause.spelled == "trustDomains" and "/" in value.text:
                _refuse_value(clause, fields, name, value, "a trust domain holds no `/`")
    # "CUSTOM": its trigger runs before any identity is known to be verified.
    if action is Action.CUSTOM and (attribute.is_peer or attribute.is_token):
        written = names[0] if clause.values else names[1]
        fields.error(
            "custom-identity", f"`{shown(clause.spelled)}` is not allowed in a CUSTOM policy",
            "key" if fields.has("key") else written, "let the provider decide on identity",
        )  # fmt: skip
    warn_of_clause(clause, action, fields, names)


def _refuse_value(clause: Clause, fields: Fields, name: str, value: Value, why: str) -> None:
    fields.findings.error(
        "bad-value", f"`{shown(value.text)}` in `{shown(clause.spelled)}`: {why}", value.location,
        path=fields.item_path(name, value),
    )  # fmt: skip


def _check_service_accounts(source: Fields) -> None:
    forms = [name for name in ("serviceAccounts", "notServiceAccounts") if source.has(name)]
    if not forms:
        return
    for name in ("principals", "notPrincipals", "namespaces", "notNamespaces"):
        if source.has(name):
            source.error(
                "mixed-source", f"service accounts cannot stand beside `{name}` in one source",
                name, "use one `from` entry for each",
            )  # fmt: skip
            break
    for name in forms:
        if len(source.items(name)) > _ACCOUNTS_MAX:
            source.error(
                "too-many", f"`{source.at(name)}` has more than {_ACCOUNTS_MAX} values", name
            )
