# The engine orders values of different types by their spelling, and texts by their escaped one.
package meshwarden_builtins

opa_lt(one, other) := one < other if {
	is_number(one)
	is_number(other)
} else := is_before(one, other)

opa_gt(one, other) := one > other if {
	is_number(one)
	is_number(other)
} else := is_before(other, one)

opa_lte(one, other) := one <= other if {
	is_number(one)
	is_number(other)
} else := is_before(other, one) == false

opa_gte(one, other) := one >= other if {
	is_number(one)
	is_number(other)
} else := is_before(one, other) == false

# Null comes first, then booleans, numbers, texts, arrays, objects and sets.
type_order := {"null": 0, "boolean": 1, "number": 2, "string": 3, "array": 4, "object": 5, "set": 6}

is_before(one, other) := one < other if {
	is_ordered_text(one)
	is_ordered_text(other)
} else := type_order[type_name(one)] < type_order[type_name(other)] if {
	type_name(one) != type_name(other)
} else := [one, other] == [false, true] if {
	is_boolean(one)
} else := false if {
	is_null(one)
} else := stop(unordered_kind(one))

# No escape stands in the spelling of such a text.
is_ordered_text(text) if {
	is_string(text)
	not regex.match(`\\`, text)
}

unordered_kind(one) := "texts with escapes" if is_string(one)

unordered_kind(one) := "arrays" if is_array(one)

unordered_kind(one) := "objects" if is_object(one)

unordered_kind(one) := "sets" if is_set(one)

# What a built-in that failed gives is not equal to itself.
opa_equal(one, other) := one == other if {
	one == one
	other == other
}

opa_neq(one, other) := one != other if {
	one == one
	other == other
}
