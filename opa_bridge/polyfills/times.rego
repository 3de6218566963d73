# Dates and times as Go has them, on the proleptic Gregorian calendar, in whole nanoseconds.
package meshwarden_builtins

day_ns := 86400000000000

second_ns := 1000000000

opa_time_clock(operand) := time.clock(read_time(operand))

opa_time_date(operand) := time.date(read_time(operand))

opa_time_weekday(operand) := time.weekday(read_time(operand))

opa_time_add_date(operand, years, months, days) := ns if {
	is_moderate(years)
	is_moderate(months)
	is_moderate(days)
	begun := utc_ns(read_time(operand))
	[year, month, day] := time.date(begun)
	month_count := ((year + years) * 12) + ((month + months) - 1)
	first := days_before(quotient(month_count, 12), remainder(month_count, 12) + 1)
	ns := safe_ns(((first + day) - 1) + days, remainder(begun, day_ns))
}

# BUDGET: beyond it Go's own numbers wrap around; no policy means such a step.
is_moderate(step) if {
	is_int64(step)
	step >= -1000000000
	step <= 1000000000
}

is_moderate(step) if {
	is_int64(step)
	step < -1000000000
	stop("time.add_date: a step of more than 10^9")
}

is_moderate(step) if {
	is_int64(step)
	step > 1000000000
	stop("time.add_date: a step of more than 10^9")
}

# The operand in the form that the engine answers as OPA does.
read_time(operand) := floor(operand) if is_int64(operand)

read_time(operand) := floor(operand[0]) if {
	is_array(operand)
	is_int64(operand[0])
	has_no_zone(operand)
}

# WHY since 2000: the engine's history of time zones differs from Go's before.
read_time(operand) := [floor(operand[0]), operand[1]] if {
	is_array(operand)
	is_int64(operand[0])
	is_string(operand[1])
	count(operand) in {2, 3}
	not has_no_zone(operand)
	is_known_history(operand[0])
}

has_no_zone(operand) if count(operand) == 1

has_no_zone(operand) if {
	count(operand) in {2, 3}
	operand[1] in {"", "UTC"}
}

is_known_history(ns) if ns >= 946684800000000000

is_known_history(ns) if {
	ns < 946684800000000000
	stop("a time zone before the year 2000")
}

utc_ns(operand) := operand if is_number(operand)

utc_ns(operand) := operand[0] if {
	zone := operand[1]
	stop(concat(" ", ["time.add_date in", zone]))
}

# Nanoseconds of a day count and a time of day, where they fit into 64 bits.
safe_ns(day, rest) := ns if {
	day >= -106752
	day <= 106752
	ns := (day * day_ns) + rest
	ns >= int64_min
	ns <= int64_max
}

# Days from 1970-01-01 to the first of a month. A year begins in March here, so that the
# leap day is its last.
days_before(year, month) := (((365 * shifted) + quotient(shifted, 4)) + (quotient(shifted, 400) - quotient(shifted, 100))) + (in_year - 719468) if {
	early := count([1 | month <= 2])
	shifted := year - early
	in_year := floor(((153 * ((month + (12 * early)) - 3)) + 2) / 5)
}

rfc3339_text := `^([0-9]{4})-([0-9]{2})-([0-9]{2})T([0-9]{1,2}):([0-9]{2}):([0-9]{2})([.,][0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})$`

opa_time_parse_rfc3339_ns(text) := ns if {
	is_string(text)
	[_, year, month, day, hour, minute, second, fraction, zone] := regex.find_all_string_submatch_n(rfc3339_text, text, 1)[0]
	date := [to_int(year), to_int(month), to_int(day)]
	days := days_before(date[0], date[1]) + (date[2] - 1)
	is_date(days, date)
	to_int(hour) <= 23
	to_int(minute) <= 59
	to_int(second) <= 59
	offset := read_offset(zone)
	local := (((to_int(hour) * 60) + to_int(minute)) * 60) + to_int(second)
	seconds := local - offset
	shift := quotient(seconds, 86400)
	rest := ((seconds - (shift * 86400)) * second_ns) + read_fraction(fraction)
	ns := safe_ns(days + shift, rest)
}

# Seconds east of UTC.
read_offset("Z") := 0

read_offset(zone) := sign * (((hours * 60) + minutes) * 60) if {
	zone != "Z"
	sign := {"+": 1, "-": -1}[substring(zone, 0, 1)]
	hours := to_int(substring(zone, 1, 2))
	minutes := to_int(substring(zone, 4, 2))
	hours <= 24
	minutes <= 60
}

# Nanoseconds; digits beyond the ninth are cut off.
read_fraction("") := 0

read_fraction(text) := to_int(substring(concat("", [text, "000000000"]), 1, 9)) if {
	text != ""
}

# Leading zeros are no number to the engine.
to_int(digits) := 0 if {
	trim_left(digits, "0") == ""
} else := to_number(trim_left(digits, "0"))

# The first day begins before what 64 bits hold.
is_date(days, date) if {
	days > -106752
	days <= 106751
	time.date(days * day_ns) == date
}

is_date(days, date) if {
	days == -106752
	date == [1677, 9, 21]
}
