# The engine orders numbers by their spelling here, so that 9 is more than 10.
package meshwarden_builtins

# BUDGET: every member is compared with every other.
most_members := 200

opa_max(collection) := highest if {
	is_ordered(collection)
	some highest in collection
	every other in collection {
		other <= highest
	}
}

opa_max(collection) := stop(unordered(collection))

opa_min(collection) := lowest if {
	is_ordered(collection)
	some lowest in collection
	every other in collection {
		other >= lowest
	}
}

opa_min(collection) := stop(unordered(collection))

opa_sort(collection) := sorted if {
	is_ordered(collection)
	members := [member | some member in collection]
	sorted := [member |
		some rank in positions(members)
		member := members[i]
		rank == count([1 | other := members[j]; precedes(other, j, member, i)])
	]
}

opa_sort(collection) := stop(unordered(collection))

positions(members) := [] if count(members) == 0

positions(members) := numbers.range(0, count(members) - 1) if count(members) > 0

precedes(one, _, other, _) if one < other

precedes(one, i, other, j) if {
	one == other
	i < j
}

is_ordered(collection) if {
	count(collection) <= most_members
	count({kind | some member in collection; kind := order_kind(member)}) <= 1
	every member in collection {
		order_kind(member) != "other"
	}
}

# Texts in escaped spelling sort otherwise.
order_kind(member) := "number" if {
	is_number(member)
} else := "text" if {
	is_string(member)
	regex.match(`^[ !#-\[\]-~]+$`, member)
} else := "other"

unordered(collection) := "members of several types, or too many" if {
	not is_string(collection)
	not is_ordered(collection)
}

opa_sum(collection) := sum(collection) if all_numbers(collection)

opa_product(collection) := product(collection) if all_numbers(collection)

all_numbers(collection) if {
	every member in collection {
		is_number(member)
	}
}

# The engine takes the members of a set in an order of its own.
opa_concat(delimiter, texts) := concat(delimiter, texts) if is_array(texts)

opa_concat(delimiter, texts) := concat(delimiter, opa_sort(texts)) if is_set(texts)
