"""Where a variable of a clause lives: lexical scopes over the places of one frame.

INVARIANT: a name means one thing in a scope. One that was used before it is declared, or is
declared twice, is outside the fragment: OPA refuses it, or moves literals.
"""

from __future__ import annotations

from opa_bridge.direct.syntax import Outside


class Scope:
    """The names of one body, within those of the bodies around it.

    Place 0 of a frame is the clause's own. Only the outermost body may bind names that
    nothing declares.
    """

    def __init__(self, parent: Scope | None = None) -> None:
        """Begin without names."""
        self._parent = parent
        self._frame: list[int] = [1] if parent is None else parent._frame
        self._places: dict[str, int] = {}
        self._unbound: set[str] = set()
        self._seen: set[str] = set()

    @property
    def size(self) -> int:
        """How many places a frame has, once all is compiled."""
        return self._frame[0]

    @property
    def is_outermost(self) -> bool:
        """Whether this is a clause's own body."""
        return self._parent is None

    def new_place(self) -> int:
        """Return a place that no name has."""
        self._frame[0] += 1
        return self._frame[0] - 1

    def declare(self, name: str, *, bound: bool = True) -> int:
        """Return the place of a new name of this scope.

        Raises:
            Outside: the name is known here already, or was used.
        """
        if name in self._places or name in self._seen or name in ("input", "data", "_"):
            raise Outside(f"`{name}` is declared where it is known already")
        self._places[name] = self.new_place()
        if not bound:
            self._unbound.add(name)
        return self._places[name]

    def declare_value(self, name: str) -> int:
        """Return the place for a name in front of `in`; `_` has one that nobody finds."""
        return self.new_place() if name == "_" else self.declare(name)

    def begin(self, name: str) -> None:
        """Declare a variable at its first use, which nothing else declares."""
        self._seen.discard(name)
        self.declare(name, bound=False)

    def find(self, name: str) -> int | None:
        """Return the place of a variable, None when there is none of the name.

        Raises:
            Outside: it has no value yet.
        """
        scope: Scope | None = self
        while scope is not None:
            if name in scope._places:
                if name in scope._unbound:
                    raise Outside(f"`{name}` is used before it has a value")
                return scope._places[name]
            scope._seen.add(name)
            scope = scope._parent
        return None

    def is_unbound(self, name: str) -> bool:
        """Return whether this scope declared a variable that has no value yet."""
        return name in self._unbound

    def bind(self, name: str) -> int:
        """Return the place of such a variable, which has a value from here on."""
        self._unbound.discard(name)
        return self._places[name]

    def check(self) -> None:
        """Raise Outside when a declared variable never got a value."""
        for name in self._unbound:
            raise Outside(f"`{name}` gets no value")
