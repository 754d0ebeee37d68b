"""Conditions in CEL: compile, check against the declared names, evaluate.

A condition sees `customer.<feature>`, `request.<context feature>`, `request.placement`, `request.channel` and
`relationship.<built-in>`; it answers true or false. Conditions are written by marketers and run on the path of every
decision, so what cannot be bounded is refused when the catalog is checked, measured with `cel` 0.10:

- `map` and `filter` copy the list at every step: 0.6 s for one condition of 1,041 characters. `matches` compiles its
  pattern at every evaluation: 62 µs for a short one, without a useful bound for a long one. All three are refused.
- `exists` and `all` are allowed, not inside each other, in at most `LOOP_LENGTH` characters: 10 ms at worst.
- Evaluation costs 0.3–0.8 µs; converting values into a context costs about 2 µs *per value*, for a dict and for a
  resolver alike, but a resolver pays again at every evaluation. Hence one dict context per request, holding only what
  the conditions in play refer to (`Condition.paths`), shared by all of them.

Types are checked by evaluating with sample values. To be safe from short circuits every operand of `&&`, `||` and `?:`
is evaluated on its own. What is *not* here yet is inference: an error inside the arm of a nested conditional, or one
that only some values cause, is found at run time, where the action is removed with reason `condition_error`.
"""

from __future__ import annotations

import difflib
import heapq
import re
from typing import TYPE_CHECKING

import cel
from msgspec import Struct

from nbx.errors import NbxError
from nbx.features.schema import Feature, FeatureType, Value

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from nbx.catalog.model import Concern, Journey

CONDITION_LENGTH = 2048
"""Characters in a condition: 7 ms for the worst one found, and a person has to read it."""
LOOP_LENGTH = 512
"""Characters in a condition with `exists` or `all`: cost grows with the cube of its length; 10 ms for the worst."""
SUGGESTIONS = 24
"""Known words an unknown one is compared with in full (10 µs each): a thousand faults must not take seconds."""
SUGGESTION_LENGTH = 64
"""Longest unknown word that is compared with the known ones: the comparison is quadratic."""

RELATIONSHIP: dict[str, float] = {"balance": 0.0, "strain": 0.5, "ignored_30d": 0.0, "minutes_since_prompt": 1440.0}
"""Built-in relationship features, each with the sample a condition is checked with."""
REQUEST = ("placement", "channel")
"""Built-in names under `request`."""
ROOTS = ("customer", "request", "relationship", "journey", "concern")

FUNCTIONS = frozenset({"size", "contains", "startsWith", "endsWith", "int", "uint", "double", "string", "has", "dyn"})
LOOPS = frozenset({"exists", "all", "exists_one", "existsOne"})
UNBOUNDED = frozenset({"map", "filter", "matches"})
KEYWORDS = frozenset({"true", "false", "null", "in"})
"""Words of CEL that can be neither a name nor the name of a field."""


class ConditionError(NbxError):
    """A condition does not compile, failed at run time, or did not answer true or false.

    Parameters
    ----------
    offset
        Character of the source it is about, 0-based; 0 at run time.
    """

    code = "condition"

    def __init__(self, message: str, *, offset: int = 0) -> None:
        super().__init__(message)
        self.offset = offset


class Condition(Struct, frozen=True, kw_only=True):
    """One compiled condition. Immutable, may be shared between threads."""

    source: str
    paths: frozenset[str]
    """Dotted names it refers to (`customer.tier`): what a context must hold."""
    program: cel.Program

    def holds(self, context: cel.Context) -> bool:
        """Evaluate in 0.3–0.8 µs.

        Raises
        ------
        ConditionError
            The evaluation failed or the result is not a boolean. The caller removes the action with reason
            `condition_error`: it is never shown.
        """
        try:
            result = self.program.execute(context)
        except Exception as error:
            raise ConditionError(f"failed: {_sentence(error)}") from error
        if result is True or result is False:
            return bool(result)
        raise ConditionError(f"must be true or false, is {result!s:.80}")


class ConditionFault(Struct, frozen=True, kw_only=True):
    """What is wrong with a condition, found before it is published."""

    offset: int
    """Character of the source, 0-based."""
    code: str
    message: str


class Variable(Struct, frozen=True, kw_only=True):
    """A name a condition may use."""

    type: FeatureType
    samples: tuple[Value, Value]
    """Two values of the type, with which conditions are tried."""
    categories: tuple[str, ...] = ()
    """Known values of a one-hot category."""


class Comparison(Struct, frozen=True, kw_only=True):
    """`path == literal`, `path != literal` or one member of `path in [...]`."""

    offset: int
    path: str
    literal: Value | None


class Token(Struct, frozen=True):
    """A word of a condition."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        """Character after the last."""
        return self.start + len(self.text)


_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
    |(?P<string>(?:[bB]?[rR]|[rR][bB])(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
      |[bB]?(?:\"{3}(?:\\.|.)*?\"{3}|'{3}(?:\\.|.)*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<number>0x[0-9a-fA-F]+[uU]?|(?:\d+\.\d+|\.\d+|\d+)(?:[eE][+-]?\d+)?[uU]?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign>&&|\|\||[=!<>]=|.)""",
    re.VERBOSE | re.DOTALL,
)
_CEL_ERROR = re.compile(r"ERROR: <input>:(\d+):(\d+): ([^\n]*)")


def compile_condition(source: str) -> Condition:
    """Compile a condition in about 0.1 ms, without looking at what its names mean.

    Raises
    ------
    ConditionError
        A syntax error, or a construct whose cost has no bound; `offset` says where.

    Examples
    --------
    >>> condition = compile_condition("customer.tier != 'gold' && relationship.balance > -5.0")
    >>> sorted(condition.paths)
    ['customer.tier', 'relationship.balance']
    >>> condition.holds(build_context({"customer": {"tier": "plus"}, "relationship": {"balance": 1.5}}))
    True
    """
    if len(source) > CONDITION_LENGTH:
        raise ConditionError(f"must have at most {CONDITION_LENGTH} characters, has {len(source)}")
    try:
        program = cel.compile(source)
    except ValueError as error:
        raise _syntax_error(source, str(error)) from error
    tokens = tokenize(source)
    _refuse_unbounded(source, tokens)
    return Condition(source=source, program=program, paths=frozenset(path for path, _ in _references(tokens)))


def build_context(values: Mapping[str, Mapping[str, Value]]) -> cel.Context:
    """Convert values for evaluation: about 2 µs per value, so pass only what is referred to.

    Parameters
    ----------
    values
        By root (`customer`, `request`, `relationship`), then by name.
    """
    return cel.Context(variables={root: dict(named) for root, named in values.items()})


def is_personal_path(path: str, features: Iterable[Feature]) -> bool:
    """Tell whether reading a name of a condition needs the customer's consent to personalise."""
    root, _, name = path.partition(".")
    if root in ("relationship", "journey", "concern"):
        return True
    declared = {feature.name: feature for feature in features if (feature.origin == "context") == (root == "request")}
    return name in declared and declared[name].is_personal


def vocabulary(
    features: Iterable[Feature], journeys: Iterable[Journey] = (), concerns: Iterable[Concern] = ()
) -> dict[str, Variable]:
    """Return every path a condition may use, with its type and samples."""
    words = {f"journey.{journey.name}": _variable("category", "") for journey in journeys}
    words |= {f"concern.{concern.name}": _variable("boolean", False) for concern in concerns}
    words |= {f"relationship.{name}": _variable("number", sample) for name, sample in RELATIONSHIP.items()}
    words |= {f"request.{name}": _variable("category", "") for name in REQUEST}
    for feature in features:
        root = "request" if feature.origin == "context" else "customer"
        words[f"{root}.{feature.name}"] = _variable(feature.type, feature.default, feature.encoding.categories)
    return words


def check_condition(source: str, words: Mapping[str, Variable]) -> tuple[ConditionFault, ...]:
    """Find what is wrong with a condition: syntax, then names, then types.

    Parameters
    ----------
    words
        What `vocabulary` returned.

    Returns
    -------
    tuple of ConditionFault
        By offset; empty when the condition may be published.

    Examples
    --------
    >>> from nbx.features.schema import Encoding
    >>> age = Feature(name="age", type="number", encoding=Encoding(kind="standard"), default=42.0)
    >>> [fault] = check_condition("customer.agee > 30", vocabulary([age]))
    >>> fault.offset, fault.message
    (0, 'unknown name `customer.agee`. Did you mean `customer.age`?')
    """
    try:
        compile_condition(source)
    except ConditionError as error:
        return (ConditionFault(offset=error.offset, code="condition_syntax", message=error.message),)
    tokens = tokenize(source)
    faults = [*_name_faults(tokens, words), *_function_faults(tokens)] or [*_type_faults(source, tokens, words)]
    return tuple(sorted(faults, key=lambda fault: fault.offset))


def comparisons(source: str) -> Iterator[Comparison]:
    """Yield every comparison of a name with a literal, for a source that compiles."""
    for leaf in _leaves(tokenize(source)):
        yield from _leaf_comparisons(leaf)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean ...?` for the nearest known word, or nothing.

    Examples
    --------
    >>> did_you_mean("grup", ["group", "value"])
    ' Did you mean `group`?'
    """
    if len(word) > SUGGESTION_LENGTH:
        return ""
    first = heapq.nsmallest(SUGGESTIONS, known, key=lambda each: _strangeness(word, each))
    near = difflib.get_close_matches(word, first, n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def tokenize(source: str) -> list[Token]:
    """Split a source that compiles into words, without space and comments."""
    return [
        Token(match.lastgroup or "", match.group(), match.start())
        for match in _TOKEN.finditer(source)
        if match.lastgroup != "space"
    ]


def _strangeness(word: str, other: str) -> int:
    """Letters not shared at either end: cheap, to choose whom to compare in full."""
    start = _shared(word, other)
    return max(len(word), len(other)) - start - _shared(word[start:][::-1], other[start:][::-1])


def _shared(word: str, other: str) -> int:
    pairs = enumerate(zip(word, other, strict=False))
    return next((i for i, (one, two) in pairs if one != two), min(len(word), len(other)))


def _variable(kind: FeatureType, default: Value, categories: tuple[str, ...] = ()) -> Variable:
    if kind == "number":
        return Variable(type=kind, samples=(default, 2.0 if default == 1.0 else 1.0))
    if kind == "boolean":
        return Variable(type=kind, samples=(False, True))
    return Variable(type=kind, samples=(default, categories[0] if categories else "x"), categories=categories)


def _syntax_error(source: str, report: str) -> ConditionError:
    found = _CEL_ERROR.findall(report.removeprefix(f"Failed to parse expression '{source}': "))
    line, column, text = next((each for each in found if "Syntax error" in each[2]), (found or [("1", "1", report)])[0])
    starts = [0, *(match.end() for match in re.finditer("\n", source))]
    offset = min(starts[min(int(line), len(starts)) - 1] + int(column) - 1, len(source))
    text = text.removeprefix("Syntax error: ").partition(" expecting ")[0]
    text = text.replace("token recognition error at:", "cannot read")
    text = "something is missing at the end" if "'<EOF>'" in text else text
    return ConditionError(f"not a condition in CEL: {text[:120]}", offset=offset)


def _refuse_unbounded(source: str, tokens: Sequence[Token]) -> None:
    loop_ends_at = depth = 0
    for i, token in enumerate(tokens):
        if token.text == "(":
            depth += 1
        elif token.text == ")":
            depth -= 1
            loop_ends_at = 0 if depth < loop_ends_at else loop_ends_at
        elif token.text in UNBOUNDED and _is_call(tokens, i):
            text = f"`{token.text}` has no bounded cost: use startsWith, endsWith, contains, exists, all or `in [...]`"
            raise ConditionError(text, offset=token.start)
        elif token.text in LOOPS and _is_call(tokens, i):
            if loop_ends_at:
                raise ConditionError(f"`{token.text}` must not stand inside another loop", offset=token.start)
            if len(source) > LOOP_LENGTH:
                text = f"with `{token.text}` a condition must have at most {LOOP_LENGTH} characters, has {len(source)}"
                raise ConditionError(text, offset=token.start)
            loop_ends_at = depth + 1


def _is_call(tokens: Sequence[Token], i: int) -> bool:
    return tokens[i].kind == "name" and i + 1 < len(tokens) and tokens[i + 1].text == "("


def _is_member(tokens: Sequence[Token], i: int) -> bool:
    if i < 2 or tokens[i - 1].text != ".":
        return False
    before = tokens[i - 2]
    return before.kind in ("name", "string", "number") or before.text in (")", "]", "}")


def _loop_variables(tokens: Sequence[Token]) -> dict[str, int]:
    return {
        tokens[i + 2].text: tokens[i + 2].start
        for i, token in enumerate(tokens)
        if token.text in LOOPS and _is_call(tokens, i) and i + 2 < len(tokens)
    }


def _references(tokens: Sequence[Token]) -> Iterator[tuple[str, int]]:
    """Yield the full dotted path of every variable with the index of its first token."""
    bound = _loop_variables(tokens)
    for i, token in enumerate(tokens):
        if token.kind != "name" or token.text in KEYWORDS or _is_member(tokens, i) or _is_call(tokens, i):
            continue
        if token.text not in bound:
            yield ".".join((token.text, *_fields(tokens, i + 1))), i


def _fields(tokens: Sequence[Token], i: int) -> Iterator[str]:
    while i + 1 < len(tokens):
        if tokens[i].text == "." and tokens[i + 1].kind == "name" and not _is_call(tokens, i + 1):
            yield tokens[i + 1].text
            i += 2
        elif (
            tokens[i].text == "["
            and tokens[i + 1].kind == "string"
            and [each.text for each in tokens[i + 2 : i + 3]] == ["]"]
        ):
            yield tokens[i + 1].text.strip("'\"")
            i += 3
        else:
            return


def _name_faults(tokens: Sequence[Token], words: Mapping[str, Variable]) -> Iterator[ConditionFault]:
    for name, offset in _loop_variables(tokens).items():
        if name in ROOTS:
            text = f"`{name}` is taken: give the variable of the loop another name"
            yield ConditionFault(offset=offset, code="condition_name", message=text)
    for path, i in _references(tokens):
        if path in words:
            continue
        parts = path.split(".")
        parent = ".".join(parts[:2])
        if parent in words:
            text = f"`{parent}` is a {words[parent].type}: it has no `{parts[2]}`"
        elif len(parts) == 1 and parts[0] in ROOTS:
            text = f"`{path}` cannot stand alone: name one value, such as `{path}.{_example(path, words)}`"
        else:
            text = f"unknown name `{path:.80}`.{_nearest(path, parts, words)}"
        yield ConditionFault(offset=tokens[i].start, code="condition_name", message=text)


def _example(root: str, words: Mapping[str, Variable]) -> str:
    return next((word.partition(".")[2] for word in words if word.startswith(f"{root}.")), "name")


def _nearest(path: str, parts: Sequence[str], words: Mapping[str, Variable]) -> str:
    for root in ROOTS:
        if f"{root}.{parts[-1]}" in words:
            return f" Did you mean `{root}.{parts[-1]}`?"
    form = " Names are customer.<feature>, request.<context feature>, relationship.<built-in>"
    return did_you_mean(path, words) or form


def _function_faults(tokens: Sequence[Token]) -> Iterator[ConditionFault]:
    known = FUNCTIONS | LOOPS
    for i, token in enumerate(tokens):
        if _is_call(tokens, i) and token.text not in known | KEYWORDS:
            near = did_you_mean(token.text, known) or f" There are {', '.join(sorted(known - {'existsOne', 'dyn'}))}"
            text = f"unknown function `{token.text:.80}`.{near}"
            yield ConditionFault(offset=token.start, code="condition_function", message=text)


def _leaves(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """Yield the operands of `&&`, `||` and `?:`, which all must be boolean when the whole must."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
        if depth == 0 and token.text in ("&&", "||", "?", ":"):
            parts.append([])
        else:
            parts[-1].append(token)
    if len(parts) > 1:
        for part in parts:
            yield from _leaves(part)
    elif (inner := _unwrapped(tokens)) is not tokens:
        yield from _leaves(inner)
    else:
        yield tokens


def _unwrapped(tokens: Sequence[Token]) -> Sequence[Token]:
    start = 0
    while start < len(tokens) and tokens[start].text == "!":
        start += 1
    if start == len(tokens) or tokens[start].text != "(":
        return tokens
    depth = 0
    for i in range(start, len(tokens)):
        depth += (tokens[i].text == "(") - (tokens[i].text == ")")
        if depth == 0:
            return tokens[start + 1 : -1] if i == len(tokens) - 1 else tokens
    return tokens


def _type_faults(source: str, tokens: Sequence[Token], words: Mapping[str, Variable]) -> Iterator[ConditionFault]:
    used = {path for path, _ in _references(tokens)}
    contexts = [_sample_context(used, words, i) for i in (0, 1)]
    for leaf in _leaves(tokens):
        text = source[leaf[0].start : leaf[-1].end]
        problem = _constant_comparison(leaf, words) or _trial(text, contexts)
        if problem:
            names = sorted({path for path, _ in _references(leaf)})
            types = "".join(f"; {name} is a {words[name].type}" for name in names)
            yield ConditionFault(
                offset=leaf[0].start, code="condition_type", message=f"`{text:.120}`: {problem}{types}"
            )


def _sample_context(used: set[str], words: Mapping[str, Variable], i: int) -> cel.Context:
    values: dict[str, dict[str, Value]] = {}
    for path in used:
        root, _, name = path.partition(".")
        values.setdefault(root, {})[name] = words[path].samples[i]
    return build_context(values)


def _trial(text: str, contexts: Iterable[cel.Context]) -> str:
    program = cel.compile(text)
    for context in contexts:
        try:
            result = program.execute(context)
        except TypeError as error:
            return _sentence(error)
        except RuntimeError as error:
            if "Undefined" in str(error) or "Internal" in str(error):
                return "a function does not work on values of these types"
        except (ArithmeticError, LookupError, ValueError):
            continue  # the sample's fault, not the condition's
        else:
            if not isinstance(result, bool):
                return f"must be true or false, is {result!s:.40}"
    return ""


def _sentence(error: Exception) -> str:
    text = str(error).partition(". ")[0]
    if "No such overload" in text:
        return "the types do not fit the operation"
    return text.replace("Unsupported operation", "types do not fit (write whole numbers as 1.0)")[:200]


def _constant_comparison(leaf: Sequence[Token], words: Mapping[str, Variable]) -> str:
    names: dict[type, FeatureType] = {bool: "boolean", float: "number", str: "category"}
    for each in _leaf_comparisons(leaf):
        if each.literal is None:
            return "a value is never null: a missing one has the feature's default"
        if each.path in words and names[type(each.literal)] != words[each.path].type:
            return f"never equal to {each.literal!r:.40}"
    return ""


def _leaf_comparisons(leaf: Sequence[Token]) -> Iterator[Comparison]:
    texts = [token.text for token in leaf]
    for sign in ("==", "!=", "in"):
        if texts.count(sign) == 1:
            i = texts.index(sign)
            left, right = leaf[:i], leaf[i + 1 :]
            break
    else:
        return
    if sign != "in" and _literals(left):
        left, right = right, left
    path = next(iter(_references(left)), ("", 0))[0]
    if path.count(".") != 1 or len(left) not in (3, 4):
        return
    if sign == "in":
        right = right[1:-1] if len(right) > 1 and right[0].text == "[" else ()
    for literal in _literals(right):
        yield Comparison(offset=leaf[0].start, path=path, literal=literal)


def _literals(tokens: Sequence[Token]) -> list[Value | None]:
    """Return literals separated by commas; empty when anything else is among them."""
    values: dict[str, Value | None] = {"true": True, "false": False, "null": None}
    found: list[Value | None] = []
    for i, token in enumerate(tokens):
        before = tokens[i - 1].text if i else ","
        if token.text == "," or (token.text == "-" and before == ","):
            continue
        if token.kind == "string" and token.text[0] in "'\"" and "\\" not in token.text:
            found.append(token.text.strip(token.text[0]))
        elif token.kind == "number" and before in (",", "-"):
            size = float(int(token.text.rstrip("uU"), 16) if "0x" in token.text else token.text.rstrip("uU"))
            found.append(-size if before == "-" else size)
        elif token.text in values:
            found.append(values[token.text])
        else:
            return []
    return found
