"""How headers are written, each remembered by its name and values.

Theory of operation. A header's place in a record hangs on its own name and values, and on the
carriers of tokens and the headers that policies look at: the same few each time. So each is made
by the long way once, and its text is kept; and so is a row of them, as they came together, with
places for the values that differ each time. INVARIANT: nothing is kept by less than all it was
made of; what is kept is bounded, since strangers choose names and values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from json.encoder import encode_basestring_ascii as quoted  # what `json.dumps` quotes by
from operator import itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

from audit.chain import encode_json
from audit.document import pointer
from audit.redact import PLAIN, Redactor
from audit.replay_facts import SeenHeaders
from audit.secret_text import MASK

_NAMES: Final = 64  # BUDGET: names that are remembered; those of proxies and browsers are fewer
_VALUES: Final = 64  # BUDGET: of each name; more are those of a name that differs each time
_LONGEST: Final = 256  # BUDGET: of the values together; longer ones are made anew
_PLANS: Final = 16  # BUDGET: headers that came together; those of proxies and browsers are fewer
_ROWS: Final = 64  # BUDGET: of each of these
_LONGEST_ROW: Final = 2048  # BUDGET: of a row's values, names and text, each

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

    __slots__ = ("begin", "forms", "is_hidden", "is_new_each_time", "mask")

    def __init__(self, name: str, is_hidden: bool, mask: Callable[[str], str] | None) -> None:
        self.begin = f"{quoted(name)}:["
        self.is_hidden = is_hidden
        self.is_new_each_time = False
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


class _Plan:
    """How headers of these names are written together: `rows` by the values that come again.

    A row's `shown` is a template for `%`, its places those of the `new` headers; it is for
    `hidden` headers of one value each. A plan that is not `kept` has no rows.
    """

    __slots__ = ("again", "hidden", "is_kept", "key", "names", "new", "rows")

    def __init__(self, known: Mapping[str, _Name], *, is_kept: bool) -> None:
        self.names = sorted(known)
        self.hidden = [name for name in self.names if known[name].is_hidden]
        self.new = [
            (name, mask)
            for name in self.names
            if known[name].is_new_each_time and (mask := known[name].mask) is not None
        ]
        others = {name for name, _ in self.new}.union(self.hidden)
        self.again = [name for name in self.names if name not in others]
        self.key: Callable[[Any], Hashable] = itemgetter(*self.again) if self.again else len
        self.rows: dict[Hashable, HeaderTexts] = {}
        self.is_kept = is_kept

    def fill(self, headers: Mapping[str, _Values]) -> tuple[str, ...] | None:
        """Return the texts for a row's places; None where the headers do not fit into one."""
        for name in self.hidden:
            values = headers[name]
            if len(values) != 1 or values[0] == MASK:
                return None
        texts: list[str] = []
        for name, mask in self.new:
            values = headers[name]
            if len(values) != 1 or not _is_plain(values[0], mask):
                return None
            texts.append(quoted(values[0]))
        return tuple(texts)


class HeaderForms:
    """Writes headers where tokens are looked for in these carriers, and policies look at those."""

    __slots__ = ("_carriers", "_gone", "_looked_at", "_names", "_plans", "_redactor", "_seen")

    def __init__(
        self, redactor: Redactor, carriers: frozenset[str], looked_at: frozenset[str]
    ) -> None:
        """Begin with nothing remembered."""
        self._redactor = redactor
        self._carriers = carriers
        self._looked_at = looked_at
        self._seen = SeenHeaders(redactor, carriers, looked_at)
        self._names: dict[str, _Name] = {}
        self._plans: dict[tuple[str, ...], _Plan] = {}
        self._gone: dict[tuple[str, ...], str] = {}

    def texts(self, headers: Mapping[str, _Values]) -> HeaderTexts:
        """Return the texts of all headers.

        Raises:
            TypeError: a name or value is no text.
        """
        names = tuple(headers)
        plan = self._plans.get(names) or self._plan(names)
        filled = plan.fill(headers) if plan.is_kept else None
        if filled is None:
            return self._one_by_one(headers, plan.names, None)
        key = plan.key(headers)
        row = plan.rows.get(key) or self._row(plan, key, headers)
        return HeaderTexts(row.shown % filled, row.pointers, row.more, row.hidden)

    def _plan(self, names: tuple[str, ...]) -> _Plan:
        """Return how headers of these names are written, and keep it where they are not too long.

        Raises:
            TypeError: a name is no text.
        """
        is_kept = sum(map(len, names)) <= _LONGEST_ROW
        known = {name: self._names.get(name) or self._known(name) for name in names}
        plan = _Plan(known, is_kept=is_kept)
        if is_kept:
            if len(self._plans) >= _PLANS:
                self._plans.clear()
            self._plans[names] = plan
        return plan

    def _row(self, plan: _Plan, key: Hashable, headers: Mapping[str, _Values]) -> HeaderTexts:
        """Return a row that is not remembered, and keep it where it is not too long."""
        row = self._one_by_one(headers, plan.names, {name for name, _ in plan.new})
        values = [each for name in plan.again for each in headers[name]]
        if max(len(row.shown), sum(map(len, values))) <= _LONGEST_ROW:
            if len(plan.rows) >= _ROWS:
                plan.rows.clear()
            plan.rows[key] = row
        return row

    def _one_by_one(
        self, headers: Mapping[str, _Values], names: Sequence[str], new: Collection[str] | None
    ) -> HeaderTexts:
        """Return the texts of all headers; a row with places for those that are `new`, if given."""
        shown: list[str] = []
        asides: list[_Aside] = []
        for name in names:
            values = headers[name]
            known = self._names.get(name) or self._known(name)
            if new is not None and name in new:
                shown.append(f"{_doubled(known.begin)}%s]")
                continue
            # WHY not the mask: who sends the mask itself is shown it, and has nothing to hide.
            key = len(values) if known.is_hidden and MASK not in values else values
            text, aside = known.forms.get(key) or self._form(known, name, values, key)
            if text:
                shown.append(text if new is None else _doubled(text))
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
                if known.mask is not None and not known.is_new_each_time:
                    known.is_new_each_time = True
                    self._plans.clear()
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


def _doubled(text: str) -> str:
    """Return a text for a template, so that none of its signs is taken for a place."""
    return text.replace("%", "%%")


def _is_plain(text: str, mask: Callable[[str], str]) -> bool:
    return PLAIN.fullmatch(text) is not None or mask(text) == text
