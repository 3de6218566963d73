# The engine keeps texts in JSON's escaped spelling and looks at that: a line break is a
# backslash and an `n` to it. Where this could show, its answer is not used.
package meshwarden_builtins

# Printable ASCII without a quote or a backslash is spelled as it is.
is_plain(text) if {
	is_string(text)
	regex.match(`^[ !#-\[\]-~]*$`, text)
}

is_unescaped(text) if {
	is_string(text)
	not regex.match(`\\`, text)
}

# No escape ends in such a beginning, so it is found only where it stands.
begins_safely(text) if regex.match(`^[^0-9a-fnrtu"\\]`, text)

# The text itself where an answer about it would be wrong; nothing otherwise.
outside_plain(text) := text if {
	is_string(text)
	not is_plain(text)
}

escaped(text) := text if {
	is_string(text)
	not is_unescaped(text)
}

# The text where looking for another in it may go wrong.
misread(text, sought) := text if {
	is_string(sought)
	escaped(text)
	not begins_safely(sought)
}

# The text with one private character for each escape. What has no escape itself stands in
# it exactly where it stands in the text.
neutral(text) := regex.replace(text, `\\(u[0-9a-f]{4}|.)`, "")

is_searchable(sought) if {
	is_unescaped(sought)
	not contains(sought, "")
}

# A text with escapes that is sought where it could be found askew.
unsearchable(text, sought) := sought if {
	misread(text, sought)
	not is_searchable(sought)
}

opa_contains(text, sought) := contains(text, sought) if not misread(text, sought)

opa_contains(text, sought) := contains(neutral(text), sought) if {
	misread(text, sought)
	is_searchable(sought)
}

opa_contains(text, sought) := stop(unsearchable(text, sought))

opa_endswith(text, sought) := endswith(text, sought) if not misread(text, sought)

opa_endswith(text, sought) := endswith(neutral(text), sought) if {
	misread(text, sought)
	is_searchable(sought)
}

opa_endswith(text, sought) := stop(unsearchable(text, sought))

opa_trim_suffix(text, sought) := trim_suffix(text, sought) if opa_endswith(text, sought) == true

opa_trim_suffix(text, sought) := text if opa_endswith(text, sought) == false

opa_split(text, sought) := split(text, sought) if not misread(text, sought)

opa_split(text, sought) := stop(misread(text, sought))

opa_replace(text, old, new) := replace(text, old, new) if {
	old != ""
	not misread(text, old)
}

opa_replace(text, old, new) := stop(misread(text, old))

opa_replace(text, "", new) := stop(concat("", ["", text, new]))

opa_trim(text, cutset) := trim(text, cutset) if {
	is_plain(text)
	is_plain(cutset)
}

opa_trim(text, cutset) := stop(outside_plain(concat("", [text, cutset])))

opa_trim_left(text, cutset) := trim_left(text, cutset) if {
	is_plain(text)
	is_plain(cutset)
}

opa_trim_left(text, cutset) := stop(outside_plain(concat("", [text, cutset])))

opa_trim_right(text, cutset) := trim_right(text, cutset) if {
	is_plain(text)
	is_plain(cutset)
}

opa_trim_right(text, cutset) := stop(outside_plain(concat("", [text, cutset])))

opa_trim_space(text) := trim_space(text) if is_plain(text)

opa_trim_space(text) := stop(outside_plain(text))

opa_lower(text) := lower(text) if is_plain(text)

opa_lower(text) := stop(outside_plain(text))

opa_upper(text) := upper(text) if is_plain(text)

opa_upper(text) := stop(outside_plain(text))

opa_strings_reverse(text) := strings.reverse(text) if is_plain(text)

opa_strings_reverse(text) := stop(outside_plain(text))

opa_substring(text, offset, length) := substring(text, floor(offset), floor(length)) if {
	is_plain(text)
	floor(offset) == offset
	floor(length) == length
}

opa_substring(text, offset, length) := stop(outside_plain(text))

opa_indexof(text, sought) := indexof(text, sought) if {
	is_plain(text)
	is_plain(sought)
	sought != ""
}

opa_indexof(text, sought) := stop(outside_plain(concat("", [text, sought])))

opa_strings_count(text, sought) := strings.count(text, sought) if {
	is_plain(text)
	is_plain(sought)
	sought != ""
}

opa_strings_count(text, sought) := count(text) + 1 if {
	is_plain(text)
	sought == ""
}

opa_strings_count(text, sought) := stop(outside_plain(concat("", [text, sought])))

opa_count(collection) := count(collection) if not escaped(collection)

opa_count(collection) := count(neutral(collection)) if escaped(collection)

opa_regex_match(pattern, text) := regex.match(pattern, text) if {
	is_plain(text)
	is_string(pattern)
}

opa_regex_match(pattern, text) := stop(outside_plain(text)) if is_string(pattern)

opa_glob_match(pattern, delimiters, text) := glob.match(pattern, delimiters, text) if {
	is_plain(pattern)
	is_plain(text)
	are_characters(delimiters)
}

opa_glob_match(pattern, delimiters, text) := stop(outside_plain(concat("", [pattern, text])))

opa_glob_match(pattern, delimiters, text) := stop("delimiters") if {
	is_string(pattern)
	is_string(text)
	kept := [delimiters]
	not are_characters(kept[0])
}

are_characters(null)

are_characters(delimiters) if {
	is_array(delimiters)
	every delimiter in delimiters {
		is_plain(delimiter)
		count(delimiter) == 1
	}
}

opa_base64_encode(text) := base64.encode(text) if is_plain(text)

opa_base64_encode(text) := stop(outside_plain(text))

opa_base64url_encode(text) := base64url.encode(text) if is_plain(text)

opa_base64url_encode(text) := stop(outside_plain(text))

opa_base64url_encode_no_pad(text) := base64url.encode_no_pad(text) if is_plain(text)

opa_base64url_encode_no_pad(text) := stop(outside_plain(text))

# WHY no pattern that matches nothing: the engine finds empty matches otherwise.
opa_regex_split(pattern, text) := regex.split(pattern, text) if {
	is_plain(text)
	not regex.match(pattern, "")
}

opa_regex_split(pattern, text) := stop(outside_plain(text)) if is_string(pattern)

opa_regex_split(pattern, text) := stop(empty_match(pattern, text))

opa_regex_replace(text, pattern, value) := regex.replace(text, pattern, value) if {
	is_plain(text)
	is_plain(value)
	not contains(value, "$")
	not regex.match(pattern, "")
}

opa_regex_replace(text, pattern, value) := stop(outside_plain(concat("", [text, value])))

opa_regex_replace(text, pattern, value) := stop(empty_match(pattern, text))

opa_regex_replace(text, pattern, value) := stop(group_reference(value))

empty_match(pattern, text) := concat(" ", ["empty match", pattern]) if {
	is_string(text)
	regex.match(pattern, "")
}

group_reference(value) := value if contains(value, "$")

opa_strings_any_suffix_match(texts, suffixes) := strings.any_suffix_match(texts, suffixes) if {
	is_plain(joined(texts))
	is_plain(joined(suffixes))
}

opa_strings_any_suffix_match(texts, suffixes) := stop(outside_plain(concat("", [joined(texts), joined(suffixes)])))

joined(texts) := texts if is_string(texts)

joined(texts) := concat("", texts) if not is_string(texts)

# The verbs `%s`, `%d`, `%v` and `%%`, each with a value of its own kind.
opa_sprintf(format, values) := sprintf(format, texts) if {
	is_simple_format(format)
	verbs := regex.find_n(`%[sdv]`, format, -1)
	texts := [value |
		verb := verbs[i]
		value := formatted(verb, values[i])
	]
	count(texts) == count(verbs)
	count(values) == count(verbs)
}

opa_sprintf(format, values) := stop(unformatted(format, values))

is_simple_format(format) if {
	regex.match(`^([^%]|%[sdv])*$`, format)
}

formatted("%s", value) := value if is_string(value)

formatted("%v", value) := value if is_string(value)

formatted("%v", value) := value if is_boolean(value)

formatted("%v", value) := format_int(value, 10) if is_whole(value)

formatted("%d", value) := floor(value) if {
	is_whole(value)
	value > -2147483648
	value < 2147483648
}

is_whole(value) if {
	is_number(value)
	floor(value) == value
}

unformatted(format, _) := "a verb other than s, d and v" if not is_simple_format(format)

unformatted(format, values) := "values that do not fit the verbs" if {
	verbs := regex.find_n(`%[sdv]`, format, -1)
	fitting := [1 |
		verb := verbs[i]
		formatted(verb, values[i]) != null
	]
	{count(fitting), count(verbs), count(values)} != {count(verbs)}
}

# Scalars, and objects and arrays of scalars: as deep as answers of policies go.
opa_json_marshal(value) := escape_html(json.marshal(value)) if is_shallow(value)

opa_json_marshal(value) := stop("json.marshal") if {
	kept := [value]
	not is_shallow(kept[0])
}

escape_html(text) := replace(replace(replace(text, "<", "\\u003c"), ">", "\\u003e"), "&", "\\u0026")

is_shallow(value) if is_scalar(value)

is_shallow(value) if {
	is_object(value)
	every key, member in value {
		is_string(key)
		is_scalar(key)
		is_scalar(member)
	}
}

is_scalar(value) if {
	is_string(value)
	not contains(value, " ")
	not contains(value, " ")
}

is_scalar(value) if is_boolean(value)

is_scalar(value) if is_null(value)

is_scalar(value) if is_whole(value)

opa_base64_decode(text) := decoded if {
	is_base64(text)
	decoded := base64.decode(text)
	is_plain(decoded)
}

opa_base64_decode(text) := stop(outside_plain(text))

opa_base64_decode(text) := stop(unreadable) if {
	is_base64(text)
	decoded := base64.decode(text)
	unreadable := outside_plain(decoded)
}

is_base64(text) if regex.match(`^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$`, text)
