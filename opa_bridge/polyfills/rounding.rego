# OPA cuts a fraction off and then looks at the sign, which nothing has between -1 and 1.
package meshwarden_builtins

opa_floor(x) := 0 if {
	is_number(x)
	x > -1
	x < 0
} else := floor(x)

opa_ceil(x) := 1 if {
	is_number(x)
	x > -1
	x < 0
} else := ceil(x)
