# Who may refund an order. The entrypoint is envoy/authz/result.
#
#   POST /orders/refund/<order>?amount=<number>
#
# is allowed for the finance department, up to 500. The token has been verified before
# this policy is asked, so its claims are simply there.
package envoy.authz

import rego.v1

limit := 500

default amount := -1

# Only a plain number counts: anything else keeps the default, and is refused.
amount := value if {
	count(input.parsed_query.amount) == 1
	value := json.unmarshal(input.parsed_query.amount[0])
	is_number(value)
}

default is_finance := false

is_finance if input.meshwarden.claims.department == "finance"

default reason := "only refunds are decided here"

reason := "a refund needs the finance department" if {
	is_refund
	not is_finance
}

reason := "a refund needs one amount, a number above 0" if {
	is_refund
	is_finance
	amount <= 0
}

reason := "the amount is above the limit of 500" if {
	is_refund
	is_finance
	amount > limit
}

reason := "" if may_refund

default is_refund := false

is_refund if {
	input.attributes.request.http.method == "POST"
	input.parsed_path[0] == "orders"
	input.parsed_path[1] == "refund"
}

default may_refund := false

may_refund if {
	is_refund
	is_finance
	amount > 0
	amount <= limit
}

default approver := ""

approver := input.meshwarden.claims.sub

result := {
	"allowed": true,
	"headers": {"x-refund-approver": approver},
	"dynamic_metadata": {"reason": "refund within the limit"},
} if {
	may_refund
} else := {
	"allowed": false,
	"http_status": 403,
	"headers": {"content-type": "application/json"},
	"body": json.marshal({"reason": reason}),
	"dynamic_metadata": {"reason": reason},
}
