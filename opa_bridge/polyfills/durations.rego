# Durations as OPA reads them: Go's units, and days, weeks and years of 365 days.
package meshwarden_builtins

# Digits with a point somewhere, then a unit; both signs of micro are one.
duration_text := `^[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h|d|w|y))+$`

duration_piece := `([0-9]*)\.?([0-9]*)(ns|us|µs|μs|ms|s|m|h|d|w|y)`

# Nanoseconds of a unit, and how many decimals of it Go's floating point keeps exact.
duration_units := {
	"ns": {"ns": 1, "exact": 0},
	"us": {"ns": 1000, "exact": 3},
	"µs": {"ns": 1000, "exact": 3},
	"μs": {"ns": 1000, "exact": 3},
	"ms": {"ns": 1000000, "exact": 6},
	"s": {"ns": 1000000000, "exact": 9},
	"m": {"ns": 60000000000, "exact": 10},
	"h": {"ns": 3600000000000, "exact": 11},
	"d": {"long": "d", "ns": 86400000000000, "exact": 0},
	"w": {"long": "w", "ns": 604800000000000, "exact": 0},
	"y": {"long": "y", "ns": 31536000000000000, "exact": 0},
}

opa_time_parse_duration_ns(text) := 0 if text in {"0", "+0", "-0"}

opa_time_parse_duration_ns(text) := ns if {
	is_string(text)
	regex.match(duration_text, text)
	not mixes_units(text)
	pieces := regex.find_all_string_submatch_n(duration_piece, text, -1)
	parts := [part |
		piece := pieces[_]
		part := piece_ns(piece[1], piece[2], duration_units[piece[3]])
	]
	count(parts) == count(pieces)
	not wraps(parts)
	ns := signed_ns(text, sum(parts))
	ns >= int64_min
	ns <= int64_max
}

# OPA knows the Greek letter beside Go's units only.
mixes_units(text) if {
	contains(text, "μ")
	regex.match(`[dwy]`, text)
}

# Twice 2^63 is zero to Go.
wraps(parts) if {
	count(parts) > 1
	9223372036854775808 in parts
	stop("time.parse_duration_ns: a part of 2^63 nanoseconds")
}

signed_ns(text, total) := 0 - total if {
	startswith(text, "-")
} else := total

piece_ns(whole, decimals, unit) := (read_whole(whole) * unit.ns) + decimals_ns(decimals, unit)

# At most nineteen digits, in two numbers that the engine holds exactly.
read_whole(digits) := (to_int(substring(padded, 0, 10)) * 10000000000) + to_int(substring(padded, 10, 10)) if {
	plain := trim_left(digits, "0")
	count(plain) <= 19
	padded := concat("", [substring("00000000000000000000", 0, 20 - count(plain)), plain])
}

decimals_ns(decimals, _) := 0 if trim_left(decimals, "0") == ""

decimals_ns(decimals, unit) := ns if {
	trim_left(decimals, "0") != ""
	count(decimals) <= unit.exact
	unit.ns <= 3600000000000
	padded := concat("", [decimals, "000000000000"])
	scale := decimal_scales[unit.exact]
	ns := to_int(substring(padded, 0, unit.exact)) * floor(unit.ns / scale)
}

decimals_ns(decimals, unit) := ns if {
	trim_left(decimals, "0") != ""
	count(decimals) > unit.exact
	unit.ns <= 3600000000000
	padded := concat("", [decimals, "000000000000000000"])
	first := to_int(substring(padded, 0, 6)) * unit.ns
	ns_first := quotient(first, 1000000)
	second := ((first - (ns_first * 1000000)) * 1000000) + (to_int(substring(padded, 6, 6)) * unit.ns)
	ns_second := quotient(second, 1000000000000)
	third := ((second - (ns_second * 1000000000000)) * 1000000) + (to_int(substring(padded, 12, 6)) * unit.ns)
	ns_third := quotient(third, 1000000000000000000)
	ns := (ns_first + ns_second) + ns_third
	rest := (third - (ns_third * 1000000000000000000)) / 1000000000000000000
	is_certain(rest, unit.ns / 1000000000000000)
}

# OPA reads days, weeks and years with decimals as floating-point numbers: exact for these.
decimals_ns(decimals, unit) := floor(fraction * unit.ns) if {
	unit.ns > 3600000000000
	fraction := binary_fractions[trim_right(decimals, "0")]
	fraction != 0
}

# WHY no test before `stop`: the engine may call it first. It stops at a text only, and
# there is one only where the fraction is none of these and the unit has a name.
decimals_ns(decimals, unit) := stop(object.get(binary_fractions, trim_right(decimals, "0"), unit.long))

binary_fractions := {"": 0, "5": 0.5, "25": 0.25, "75": 0.75, "125": 0.125}

decimal_scales := [
	1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000, 1000000000,
	10000000000, 100000000000,
]

# Where Go multiplies inexact floating-point numbers, the answer is certain only while what
# is cut off is far enough from a whole nanosecond.
is_certain(rest, error) if {
	rest > error
	rest < 1 - error
}

is_certain(rest, error) if {
	rest <= error
	stop("time.parse_duration_ns: a fraction at the edge of a nanosecond")
}

is_certain(rest, error) if {
	rest >= 1 - error
	stop("time.parse_duration_ns: a fraction at the edge of a nanosecond")
}
