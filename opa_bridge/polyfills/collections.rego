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
		member := at_rank(members, rank)
	]
}

# WHY a function: of two iterations in one body the engine takes either first.
at_rank(members, rank) := member if {
	member := members[i]
	rank == count([1 | other := members[j]; precedes(other, j, member, i)])
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

# The engine takes any value for an empty array where the ends are askew.
opa_array_slice(collection, start, stop_at) := array.slice(collection, start, stop_at) if {
	is_array(collection)
	floor(start) == start
	floor(stop_at) == stop_at
}

opa_json_patch(document, patches) := json.patch(document, patches) if are_patches(document, patches)

opa_json_patch(document, patches) := stop("patches of another form") if {
	is_array(patches)
	kept := [document]
	not are_patches(kept[0], patches)
}

# The engine's `test` compares with what stood there before, and takes what is missing for null.
are_patches(document, patches) if {
	is_object(document)
	every patch in patches {
		leads_to_field(document, parts_of(trim_prefix(patch.path, "/")))
		is_string(object.get(patch, "from", ""))
		patch.op != "test"
	}
}

opa_json_remove(document, paths) := json.remove(document, paths) if lead_to_fields(document, paths)

opa_json_remove(document, paths) := stop(odd_paths(document, paths))

opa_json_filter(document, paths) := json.filter(document, paths) if lead_to_fields(document, paths)

opa_json_filter(document, paths) := stop(odd_paths(document, paths))

odd_paths(document, paths) := "paths of another form" if {
	is_object(document)
	not lead_to_fields(document, paths)
}

# The engine takes numbers for places in arrays, a `/` at the beginning for a name, and goes on
# below a scalar.
lead_to_fields(document, paths) if {
	is_object(document)
	every path in paths {
		leads_to_field(document, parts_of(path))
	}
}

parts_of(path) := split(path, "/") if {
	is_string(path)
	regex.match(`^[^/~\\]+(/[^/~\\]+)*$`, path)
}

parts_of(path) := path if {
	is_array(path)
	every part in path {
		is_string(part)
	}
}

leads_to_field(document, parts) if {
	count(parts) > 0
	every length in numbers.range(0, count(parts) - 1) {
		is_object(object.get(document, array.slice(parts, 0, length), {}))
	}
}
