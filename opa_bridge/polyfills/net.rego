# CIDR blocks and addresses as Go reads them: no zones, no leading zeros in IPv4 parts,
# and an IPv4 address mapped into IPv6 is the IPv4 address.
# An address is {"bits": 32 or 128, "parts": numbers of 32 bits}; a block has its size too.
package meshwarden_builtins

ipv4_text := `^(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}$`

ipv6_text := `^[0-9a-fA-F:]+(:[0-9.]+)?$`

hex_digits := {
	"0": 0, "1": 1, "2": 2, "3": 3, "4": 4, "5": 5, "6": 6, "7": 7, "8": 8, "9": 9,
	"a": 10, "b": 11, "c": 12, "d": 13, "e": 14, "f": 15,
	"A": 10, "B": 11, "C": 12, "D": 13, "E": 14, "F": 15,
}

# How many addresses a block leaves open in one part, by the bits that it fixes there.
openings := [
	4294967296, 2147483648, 1073741824, 536870912, 268435456, 134217728, 67108864, 33554432,
	16777216, 8388608, 4194304, 2097152, 1048576, 524288, 262144, 131072,
	65536, 32768, 16384, 8192, 4096, 2048, 1024, 512,
	256, 128, 64, 32, 16, 8, 4, 2, 1,
]

opa_net_cidr_contains(cidr, cidr_or_ip) := within(known, inside) if {
	known := plain_block(read_block(cidr))
	inside := plain_block(read_range(cidr_or_ip))
}

opa_net_cidr_intersects(cidr1, cidr2) := true if {
	one := plain_block(read_block(cidr1))
	other := plain_block(read_block(cidr2))
	overlap(one, other)
} else := false if {
	one := plain_block(read_block(cidr1))
	other := plain_block(read_block(cidr2))
}

opa_net_cidr_is_valid(cidr) := true if {
	block := read_block(cidr)
} else := false

overlap(one, other) if within(one, other) == true

overlap(one, other) if within(other, one) == true

within(block, inside) := true if {
	block.bits == inside.bits
	block.size <= inside.size
	block.parts == [part |
		whole := inside.parts[i]
		part := cleared(whole, block.size - (32 * i))
	]
} else := false

# An address is the block of its own.
read_range(text) := {"bits": address.bits, "size": address.bits, "parts": address.parts} if {
	address := read_address(text)
} else := read_block(text)

# The block with its host bits cleared.
read_block(text) := {"bits": address.bits, "size": size, "parts": parts} if {
	halves := split(text, "/")
	count(halves) == 2
	address := read_address(halves[0])
	regex.match(`^0*[0-9]{1,3}$`, halves[1])
	size := read_size(halves[1])
	size <= address.bits
	parts := [cleared(part, size - (32 * i)) | part := address.parts[i]]
}

# WHY no `to_number` on leading zeros: the engine has none for them.
read_size(digits) := 0 if {
	trim_left(digits, "0") == ""
} else := to_number(trim_left(digits, "0"))

read_address(text) := {"bits": 32, "parts": [read_ipv4(text)]} if {
	regex.match(ipv4_text, text)
}

read_address(text) := {"bits": 128, "parts": parts} if {
	regex.match(ipv6_text, text)
	contains(text, ":")
	groups := read_groups(text)
	parts := [part |
		some i in [0, 2, 4, 6]
		part := (groups[i] * 65536) + groups[i + 1]
	]
}

read_ipv4(text) := (((((b[0] * 256) + b[1]) * 256) + b[2]) * 256) + b[3] if {
	b := [to_number(digits) | some digits in split(text, ".")]
}

# Eight numbers of 16 bits.
read_groups(text) := groups if {
	not contains(text, "::")
	groups := read_part(text)
	count(groups) == 8
}

read_groups(text) := groups if {
	halves := split(text, "::")
	count(halves) == 2
	not contains(halves[0], ".")
	front := read_part(halves[0])
	back := read_part(halves[1])
	missing := (8 - count(front)) - count(back)
	missing > 0
	groups := array.concat(array.concat(front, array.slice([0, 0, 0, 0, 0, 0, 0, 0], 0, missing)), back)
}

read_part(text) := read_hex(text) if {
	not contains(text, ".")
}

read_part(text) := array.concat(front, [high, ipv4 - (high * 65536)]) if {
	contains(text, ".")
	pieces := split(text, ":")
	last := pieces[count(pieces) - 1]
	regex.match(ipv4_text, last)
	ipv4 := read_ipv4(last)
	high := floor(ipv4 / 65536)
	front := read_front(trim_suffix(text, last))
}

# What stands before an IPv4 tail: nothing (behind `::`), or groups that end in one `:`.
read_front("") := []

read_front(text) := read_hex(trim_suffix(text, ":")) if {
	regex.match(`[0-9a-fA-F]:$`, text)
}

read_hex("") := []

read_hex(text) := [read_group(digits) | some digits in split(text, ":")] if {
	regex.match(`^[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4})*$`, text)
}

read_group(digits) := sum(values) if {
	weights := [1, 16, 256, 4096]
	reversed := array.reverse(split(digits, ""))
	values := [value |
		digit := reversed[i]
		value := hex_digits[digit] * weights[i]
	]
}

plain_block(block) := {"bits": 32, "size": block.size - 96, "parts": [block.parts[3]]} if {
	is_mapped(block)
} else := block

is_mapped(address) if array.slice(address.parts, 0, 3) == [0, 0, 65535]

# Numbers below 2^32: the quotient is exact, and the engine's `%` is not.
cleared(part, bits) := opening * floor(part / opening) if {
	opening := openings[fixed(bits)]
}

fixed(bits) := 0 if {
	bits < 0
} else := 32 if {
	bits > 32
} else := bits
