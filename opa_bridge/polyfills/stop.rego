# Two values for one call end the whole evaluation: the request is denied.
# Used where the engine cannot answer as OPA does, so that nothing is answered otherwise.
package meshwarden_builtins

stop(why) := concat("", [why, "!"]) if is_string(why)

stop(why) := concat("", [why, "?"]) if is_string(why)
