package p

headers := input.attributes.request.http.headers

# Denies what says so, in its own words.
default by_header := true

by_header := {"allowed": false, "http_status": 409, "body": "rego says no"} if {
	headers["x-custom"] == "no"
}

# Only alice, as verified; whoever brings claims that are not does not count.
default alice := {"allowed": false, "body": "not alice"}

alice := true if input.meshwarden.claims.sub == "alice"

# What Istio's own policies say, handed on.
told := {"allowed": true, "headers": {"x-would": verdict.would, "x-why": concat(" ", [
	verdict.layer,
	verdict.reason,
	object.get(verdict, "policy", "-"),
])}} if {
	verdict := input.meshwarden.istio
}

# Lets in what Istio denies: the DENY and ALLOW policies still count.
default contrary := false

contrary if input.meshwarden.istio.would == "deny"

# The first of two in a row.
one := {
	"allowed": true,
	"headers": {"x-both": "one", "x-one": "1", "x-kept": "one", "x-role": "admin"},
	"request_headers_to_remove": ["x-away"],
	"response_headers_to_add": {"x-answer": "one"},
	"query_parameters_to_set": {"q": "one"},
}

# The second sees what the first made of the request.
two := {
	"allowed": true,
	"headers": {"x-both": concat("+", [headers["x-both"], "two"]), "x-away": "back"},
	"request_headers_to_remove": ["x-one"],
	"response_headers_to_add": {"x-answer": "two", "x-second": "2"},
	"query_parameters_to_remove": ["q"],
} if {
	headers["x-both"]
	not headers["x-custom"] == "no"
} else := {"allowed": false, "body": "two says no"} if {
	headers["x-both"]
} else := {"allowed": true}

# Fails as it is told to.
broken := true if not headers["x-break"]

broken := true if headers["x-break"] == "conflict"

broken := false if headers["x-break"] == "conflict"

broken := "yes" if headers["x-break"] == "shape"

broken := false if headers["x-break"] == "no"

# Sends the request elsewhere, as `compatibility.rewriteTarget` lets it.
default elsewhere := true

elsewhere := {"allowed": true, "headers": {":path": headers["x-path"]}} if headers["x-path"]
