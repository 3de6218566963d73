# Whole-number division. The engine's `%` is wrong for many small numbers, and its `/` keeps
# 16 digits; one step of correction makes the quotient exact while it stays below 10^15.
package meshwarden_builtins

int64_min := -9223372036854775808

int64_max := 9223372036854775807

is_int64(x) if {
	is_number(x)
	x >= int64_min
	x <= int64_max
	floor(x) == x
}

# Rounded towards minus infinity.
quotient(x, y) := near - 1 if {
	near := floor(x / y)
	near * y > x
} else := near + 1 if {
	near := floor(x / y)
	x - (near * y) >= y
} else := floor(x / y)

remainder(x, y) := x - (quotient(x, y) * y)
