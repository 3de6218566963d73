# The engine looks at what stands behind the dash before it looks at the numbers, and takes other
# texts for versions than OPA does (`v1.2.3`, `01.2.3`, `1.2.3-`): only plain ones are answered.
package meshwarden_builtins

opa_semver_is_valid(x) if is_plain_version(x)

opa_semver_is_valid(x) := false if not is_string(x)

opa_semver_is_valid(x) := stop(x) if {
	is_string(x)
	not is_plain_version(x)
}

opa_semver_compare(one, other) := sign if {
	is_plain_version(one)
	is_plain_version(other)
	left := split(one, "-")
	right := split(other, "-")
	all_signs := part_signs(left, right)
	signs := [found | some found in all_signs; found != 0]
	ended := array.concat(signs, [0])
	sign := ended[0]
}

part_signs(left, right) := array.concat(numbers, [word_sign(left, right)]) if {
	x := split(left[0], ".")
	y := split(right[0], ".")
	numbers := [number_sign(x[0], y[0]), number_sign(x[1], y[1]), number_sign(x[2], y[2])]
}

# Digits without a zero before them: of two texts the longer is the greater number.
number_sign(x, y) := text_sign(x, y) if count(x) == count(y)

number_sign(x, y) := 1 if count(x) > count(y)

number_sign(x, y) := -1 if count(x) < count(y)

text_sign(x, y) := 0 if x == y

text_sign(x, y) := 1 if x > y

text_sign(x, y) := -1 if x < y

# What has a word behind it comes before what has none.
word_sign(left, right) := count(right) - count(left) if count(left) != count(right)

word_sign(left, right) := 0 if {
	count(left) == 1
	count(right) == 1
}

word_sign(left, right) := text_sign(left[1], right[1])

opa_semver_compare(one, other) := stop(one) if {
	is_string(one)
	is_string(other)
	not is_plain_version(one)
}

opa_semver_compare(one, other) := stop(other) if {
	is_string(one)
	is_string(other)
	not is_plain_version(other)
}

is_plain_version(text) if {
	is_string(text)
	regex.match(`^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})(-[a-z]+)?$`, text)
}
