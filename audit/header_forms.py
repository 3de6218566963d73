"""How headers are written, each remembered by its name and values.

Theory of operation. A header's place in a record hangs on its own name and values, and on the
carriers of tokens and the headers that policies look at: the same few each time. So each is made
by the long way once, and its text is kept. INVARIANT: nothing is kept by less than all it was
made of; what is kept is bounded, since strangers choose names and values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted  # what `json.dumps` quotes by
from typing import Final, NamedTuple, TypeAlias

from audit.chain import encode_json
from audit.document import pointer
from audit.redact import MASK, PLAIN, Redactor
from audit.replay_facts import SeenHeaders

_NAMES: Final = 64  # BUDGET: names that are remembered; those of proxies and browsers are fewer
_VALUES: Final = 64  # BUDGET: of each name; more are those of a name that differs each time
_LONGEST: Final = 256  # BUDGET: of the values together; longer ones are made anew

_Values: TypeAlias = tuple[str, ...]


class _Aside(NamedTuple):
    """What a header adds elsewhere, JSON or empty each: to `masked`, and to the replay's part."""

    pointer: str
    more: str
    hidden: str


_Form: TypeAlias = tuple[str, _Aside | None]
"""The header as a member of `headers`, empty where it is not shown, and what it adds elsewhere."""


class _Name:
    """A header's name: how its values are written, and the forms that are remembered.

    `is_hidden`: nothing that is written hangs on what the values are, only on their number.
    `mask` makes of a value what is shown, where that hangs on nothing else.
    """

    __slots__ = ("begin", "forms", "is_hidden", "mask")

    def __init__(self, name: str, is_hidden: bool, mask: Callable[[str], str] | None) -> None:
        self.begin = f"{quoted(name)}:["
        self.is_hidden = is_hidden
        self.mask = mask
        self.forms: dict[_Values | int, _Form] = {}


class HeaderTexts(NamedTuple):
    """The texts of all headers of a record: members or items of the JSON that they stand in.

    `pointers` are those of masked values, `more` and `hidden` what the replay's part has of the
    headers that are not shown.
    """

    shown: str
    pointers: Sequence[str]
    more: str
    hidden: str


class HeaderForms:
    """Writes headers where tokens are looked for in these carriers, and policies look at those."""

    __slots__ = ("_carriers", "_gone", "_looked_at", "_names", "_redactor", "_seen")

    def __init__(
        self, redactor: Redactor, carriers: frozenset[str], looked_at: frozenset[str]
    ) -> None:
        """Begin with nothing remembered."""
        self._redactor = redactor
        self._carriers = carriers
        self._looked_at = looked_at
        self._seen = SeenHeaders(redactor, carriers, looked_at)
        self._names: dict[str, _Name] = {}
        self._gone: dict[tuple[str, ...], str] = {}

    def texts(self, headers: Mapping[str, _Values]) -> HeaderTexts:
        """Return the texts of all headers.

        Raises:
            TypeError: a name or value is no text.
        """
        shown: list[str] = []
        asides: list[_Aside] = []
        names = self._names
        for name in sorted(headers):
            values = headers[name]
            known = names.get(name) or self._known(name)
            # WHY not the mask: who sends the mask itself is shown it, and has nothing to hide.
            key = len(values) if known.is_hidden and MASK not in values else values
            text, aside = known.forms.get(key) or self._form(known, name, values, key)
            if text:
                shown.append(text)
            if aside is not None:
                asides.append(aside)
        if not asides:
            return HeaderTexts(",".join(shown), (), "", "")
        return HeaderTexts(
            ",".join(shown),
            [each.pointer for each in asides if each.pointer],
            ",".join([each.more for each in asides if each.more]),
            ",".join([each.hidden for each in asides if each.hidden]),
        )

    def changes(self, headers: Mapping[str, _Values], later: Mapping[str, _Values]) -> str:
        """Return what the replay's part has of headers that policies saw otherwise, commas before.

        Raises:
            TypeError: a name or value is no text.
        """
        if later is headers:
            return ""
        # Nearly always only the carriers of tokens were taken away.
        gone = tuple(sorted(headers.keys() - later.keys()))
        if len(later) + len(gone) != len(headers) or not later.items() <= headers.items():
            return self._changes(headers, later)
        text = self._gone.get(gone)
        if text is None:
            text = self._changes(headers, later)
            if len(self._gone) >= _NAMES:
                self._gone.clear()
            if len(text) <= _LONGEST:
                self._gone[gone] = text
        return text

    def _changes(self, headers: Mapping[str, _Values], later: Mapping[str, _Values]) -> str:
        rewritten, hidden = self._seen.changed(headers, later)
        text = f',"rewritten":{encode_json(rewritten)}' if rewritten else ""
        return f'{text},"hidden_rewritten":{encode_json(hidden)}' if hidden else text

    def _known(self, name: str) -> _Name:
        """Return what is to be known of a name, and keep it where it is not too long."""
        redactor, carriers = self._redactor, self._carriers
        is_hidden = name not in self._looked_at and redactor.hides_header(name, carriers)
        known = _Name(name, is_hidden, redactor.mask_of(name, carriers))
        if len(name) <= _LONGEST:
            if len(self._names) >= _NAMES:
                self._names.clear()
            self._names[name] = known
        return known

    def _form(self, known: _Name, name: str, values: _Values, key: _Values | int) -> _Form:
        """Return a form that is not remembered, and keep it where it is not too long."""
        if known.mask is not None and len(values) == 1 and _is_plain(values[0], known.mask):
            form: _Form = (f"{known.begin}{quoted(values[0])}]", None)
        else:
            form = self._made(name, values)
        if isinstance(key, int) or sum(map(len, key)) <= _LONGEST:
            if len(known.forms) >= _VALUES:
                known.forms.clear()
            known.forms[key] = form
        return form

    def _made(self, name: str, values: _Values) -> _Form:
        shown = self._redactor.shown_header(name, values, self._carriers)
        text = "" if shown is None else f"{quoted(name)}:[{','.join(map(quoted, shown))}]"
        if shown == list(values):
            return text, None
        masked = "" if shown is None else quoted(pointer("request", "headers", name))
        more, hidden = self._seen.beside({name: values}, {} if shown is None else {name: shown})
        aside = _Aside(masked, encode_json(more)[1:-1], ",".join(map(quoted, hidden)))
        return text, aside if any(aside) else None


def _is_plain(text: str, mask: Callable[[str], str]) -> bool:
    return PLAIN.fullmatch(text) is not None or mask(text) == text
