"""Reads AuthorizationPolicy: rules, fields and conditions, checked by Istio's own rules.

Spec: Istio AuthorizationPolicy reference and its CRD; what Istio accepts and Envoy
would not take is refused here too.
"""

from __future__ import annotations

from collections.abc import Iterator

from policies.attributes import attribute_for, known_keys
from policies.diagnostic import shown
from policies.dry_run_annotation import read_dry_run
from policies.fields import Fields, suggestion
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
_OF_OPERATIONS = {name: f"to.operation.{name}" for name in _OPERATION_FIELDS}
_OF_SOURCES = {name: f"from.source.{name}" for name in _SOURCE_FIELDS}
_CONDITION_FIELDS = ("key", "values", "notValues")
_RETIRED_KEYS = {
    "destination.labels": "choose the workload with `spec.selector`",
    "destination.name": "choose the workload with `spec.selector`",
    "destination.user": "choose the workload with `spec.selector`",
    "destination.namespace": "put the policy into that namespace",
    "source.user": "did you mean `source.principal`?",
}
_BRACKET_FORMS = {
    "request.headers": "[<name>]",
    "request.auth.claims": "[<name>]",
    "experimental.envoy.filters.": "<filter>[<key>]",
}
_ADDRESS_HELP = "write an address like `10.1.2.3` or a range like `10.0.0.0/8`"
_VALUE_HELP = {
    "source.ip": _ADDRESS_HELP,
    "remote.ip": _ADDRESS_HELP,
    "destination.ip": _ADDRESS_HELP,
    "destination.port": 'write a number like `"8080"`',
    "source.serviceAccount": "write `<account>` or `<namespace>/<account>`",
    "source.trustDomain": "write `example.com`, `*.example.com` or `*`",
    "source.namespace": "split the value",
    "source.principal": "split the value",
    "operation.paths": "in a template each segment is text, `{*}`, or one last `{**}`",
}
_ACCOUNTS_MAX = 16
# "maxItems" of the CRD.
_RULES_MAX = 512
_SOURCES_MAX = 512


def read_authorization_policy(fields: Fields, metadata: Metadata) -> AuthorizationPolicy:
    """Return the policy; what is wrong with it is in the findings."""
    spec = fields.child("spec", _SPEC_FIELDS)
    known = _read_action(spec)
    # WHY ALLOW: the set is refused for its action already, and ALLOW asks for nothing more.
    action = known or Action.ALLOW
    # "DENY without rules" and "CUSTOM without rules" never match: Istio refuses them.
    if action in (Action.DENY, Action.CUSTOM) and spec is not None and spec.lacks("rules"):
        spec.error(
            "no-rules", f"a {action} policy without `spec.rules` never matches", "rules",
            "write `rules: [{}]` to match every request",
        )  # fmt: skip
    return AuthorizationPolicy(
        metadata=metadata,
        attachment=read_attachment(spec),
        action=action,
        rules=tuple(_read_rules(spec, action)) if spec else (),
        provider=_read_provider(spec, known) if spec else "",
        dry_run=read_dry_run(fields, metadata, action),
    )


def _read_action(spec: Fields | None) -> Action | None:
    """Return the action, or None when what is written is none."""
    # "ALLOW ... is the default type."
    if spec is None or not spec.has("action"):
        return Action.ALLOW
    text = spec.text("action", "-")
    try:
        return Action(text)
    except ValueError:
        if text != "-":
            spec.error(
                "unknown-action", f"unknown action `{shown(text)}`", "action",
                suggestion(text.upper(), list(Action)),
            )  # fmt: skip
        return None


def _read_provider(spec: Fields, action: Action | None) -> str:
    provider = spec.child("provider", ("name",))
    name = provider.text("name") if provider else ""
    if action is Action.CUSTOM and (
        not spec.has("provider") or (provider and provider.is_hollow())
    ):
        spec.error(
            "no-provider", "a CUSTOM policy must name `spec.provider.name`", "provider",
            "one of the mesh's extension providers",
        )  # fmt: skip
    if action not in (Action.CUSTOM, None) and spec.has("provider"):
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
        source = entry.child("source", _SOURCE_FIELDS, _OF_OPERATIONS)
        _refuse_empty(entry, source, "source", "from")
        yield tuple(_read_clauses(source, _SOURCE_KEYS, action)) if source else ()
        if source is not None:
            _check_service_accounts(source)


def _read_operations(rule: Fields, action: Action) -> Iterator[tuple[Clause, ...]]:
    for entry in rule.children("to", ("operation",)):
        operation = entry.child("operation", _OPERATION_FIELDS, _OF_SOURCES)
        _refuse_empty(entry, operation, "operation", "to")
        yield tuple(_read_clauses(operation, _OPERATION_KEYS, action)) if operation else ()


def _refuse_empty(entry: Fields, written: Fields | None, inner: str, key: str) -> None:
    """Refuse an empty source or operation: it would match anything."""
    if entry.is_hollow() or (written is not None and written.is_hollow()):
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
    for entry in rule.children("when", _CONDITION_FIELDS):
        key = entry.text("key")
        clause = Clause(
            key=key,
            spelled=key,
            values=entry.values("values"),
            not_values=entry.values("notValues"),
            location=entry.place("key"),
        )
        if entry.lacks("key") and entry.node.entries.keys() <= {*_CONDITION_FIELDS}:
            entry.error("empty-value", f"`{entry.at('key')}` is empty", "key",
                        f"known: {', '.join(known_keys())}")  # fmt: skip
        elif not key:
            continue
        elif not key.isprintable() or key.startswith("operation.") or attribute_for(key) is None:
            entry.error("unknown-key", f"unknown `when` key `{shown(key)}`", "key", _key_help(key))
        else:
            _check_clause(clause, entry, ("values", "notValues"), action)
            if all(name == "key" or entry.lacks(name) for name in entry.node.entries):
                entry.error(
                    "empty-match", f"`{entry.path}` has neither `values` nor `notValues`", "",
                    "a lone `*` asks for presence",
                )  # fmt: skip
            yield clause


def _key_help(key: str) -> str:
    """Return the help for an unknown key: what took its place, its brackets, or its neighbour."""
    for former, help_ in _RETIRED_KEYS.items():
        if key.startswith(former):
            return help_
    for prefix, form in _BRACKET_FORMS.items():
        if key.startswith(prefix):
            return f"write `{prefix}{form}`"
    return suggestion(key, known_keys())


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
    path = fields.item_path(name, value)
    fields.findings.error(
        "bad-value", f"`{path}` is `{shown(value.text)}`: {why}", value.location,
        _VALUE_HELP.get(clause.key, ""), path=path,
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
                "too-many", f"`{source.at(name)}` has more than {_ACCOUNTS_MAX} values", name,
                "use several `from` entries",
            )  # fmt: skip
