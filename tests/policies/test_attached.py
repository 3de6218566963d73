"""Filing policies by their attachment finds what trying each of them finds."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from policies.attached import AttachedPolicies
from policies.attachment import GATEWAY_NAME_LABEL, is_attached
from policies.diagnostic import Location
from policies.mesh import Mesh, MeshMode
from policies.model import Action, Attachment, AuthorizationPolicy, Metadata
from policies.request import Service, Workload

_NAMESPACES = st.sampled_from(["shop", "jobs", "istio-system"])
_NAMES = st.sampled_from(["orders", "web"])
_LABELS = st.dictionaries(st.sampled_from(["app", "tier", GATEWAY_NAME_LABEL]), _NAMES, max_size=3)
_TARGETS = st.fixed_dictionaries(
    {
        "group": st.sampled_from(["", "gateway.networking.k8s.io"]),
        "kind": st.sampled_from(["Service", "Gateway", "GatewayClass"]),
        "name": st.sampled_from(["orders", "web", "istio-waypoint"]),
    }
)
_POLICIES = st.lists(
    st.builds(
        lambda namespace, selector, targets: AuthorizationPolicy(
            metadata=Metadata(namespace=namespace, name="p", location=Location("p.yaml")),
            attachment=Attachment(selector=selector, target_refs=tuple(targets)),
            action=Action.ALLOW,
        ),
        _NAMESPACES,
        st.none() | _LABELS,
        st.lists(_TARGETS, max_size=2),
    ),
    max_size=12,
)
_WORKLOADS = st.builds(
    lambda namespace, labels, service: Workload(
        namespace=namespace, labels=labels, service=service
    ),
    _NAMESPACES,
    _LABELS,
    st.none() | st.builds(Service, name=_NAMES, namespace=_NAMESPACES),
)


@given(_POLICIES, _WORKLOADS, st.sampled_from(list(MeshMode)))
def test_nothing_is_lost_and_nothing_added(
    policies: Sequence[AuthorizationPolicy], workload: Workload, mode: MeshMode
) -> None:
    """In every mode the numbers are those of the policies that apply, in their order."""
    mesh = Mesh(mode=mode)
    expected = [
        number
        for number, each in enumerate(policies)
        if is_attached(each.metadata, each.attachment, workload, mesh)
    ]

    assert expected == AttachedPolicies(policies).find(workload, mesh)
