"""Who is asking: SPIFFE peers and token subjects, verified. Ground floor: imports none of ours."""
