# A policy as it is served by opa-envoy-plugin, taken over as it was.
package envoy.authz

import rego.v1

default allow := {"allowed": false, "http_status": 403, "body": "not allowed\n"}

allow := {"allowed": true, "headers": {"x-role": role}} if {
	some role in data.roles[input.source_principal]
	some grant in data.grants[role]
	grant.method == input.attributes.request.http.method
	startswith(input.attributes.request.http.path, grant.path)
}
