"""Conditions in CEL: compile, check against the declared names, evaluate.

A condition sees `customer.<feature>`, `request.<context feature>`, `request.placement`, `request.channel`,
`relationship.<built-in>`, `journey.<name>` and `concern.<name>`; it answers true or false. Conditions are written by
marketers and run on the path of every decision, so what cannot be bounded is refused (`nbx.catalog.cel_syntax`), and
what would fail or decide nothing is refused when the catalog is checked (`nbx.catalog.condition_types`).

Evaluation costs 0.3–0.8 µs; converting values into a context costs about 2 µs *per value*, for a dict and for a
resolver alike, but a resolver pays again at every evaluation. Hence one dict context per request, holding only what
the conditions in play refer to (`Condition.paths`), shared by all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct

from nbx.catalog.cel_syntax import (
    CONDITION_LENGTH,
    KEYWORDS,
    REMEMBERED,
    CelSyntaxError,
    Node,
    names_in,
    parse_condition,
)
from nbx.catalog.condition_types import ConditionFault, type_faults
from nbx.catalog.suggestions import did_you_mean
from nbx.catalog.vocabulary import RELATIONSHIP, REQUEST, Variable, is_personal_path, vocabulary
from nbx.errors import NbxError
from nbx.features.schema import Value
from nbx.imports import hollow

with hollow("cel.cli"):  # the library imports its own command line, and with it prompt_toolkit and Rich
    import cel

__all__ = [
    "CONDITION_LENGTH",
    "KEYWORDS",
    "RELATIONSHIP",
    "REQUEST",
    "Condition",
    "ConditionError",
    "ConditionFault",
    "Variable",
    "build_context",
    "check_condition",
    "compile_condition",
    "did_you_mean",
    "is_personal_path",
    "vocabulary",
]


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


def compile_condition(source: str) -> Condition:
    """Compile a condition in about 0.3 ms, without looking at what its names mean.

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
    return _compiled(source)[0]


def build_context(values: Mapping[str, Mapping[str, Value]]) -> cel.Context:
    """Convert values for evaluation: about 2 µs per value, so pass only what is referred to.

    Parameters
    ----------
    values
        By root (`customer`, `request`, …), then by name.
    """
    return cel.Context(variables={root: dict(named) for root, named in values.items()})


def check_condition(source: str, words: Mapping[str, Variable]) -> tuple[ConditionFault, ...]:
    """Find what is wrong with a condition: syntax, else names, types and values all at once.

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
    >>> from nbx.features.schema import Encoding, Feature
    >>> age = Feature(name="age", type="number", encoding=Encoding(kind="standard"), default=42.0)
    >>> [fault] = check_condition("customer.agee > 30", vocabulary([age]))
    >>> fault.offset, fault.message
    (0, 'unknown name `customer.agee`. Did you mean `customer.age`?')
    """
    try:
        _, tree = _compiled(source)
    except ConditionError as error:
        return (ConditionFault(offset=error.offset, code="condition_syntax", message=error.message),)
    return tuple(type_faults(source, tree, words))


@lru_cache(maxsize=REMEMBERED)
def _compiled(source: str) -> tuple[Condition, Node]:
    try:
        tree = parse_condition(source)
    except CelSyntaxError as error:
        raise ConditionError(error.message, offset=error.offset) from None
    try:
        program = cel.compile(source)
    except ValueError as error:
        raise ConditionError(f"not a condition in CEL: {str(error)[:200]}") from error
    return Condition(source=source, program=program, paths=names_in(tree)), tree


def _sentence(error: Exception) -> str:
    text = str(error).partition(". ")[0]
    return "the types do not fit the operation" if "No such overload" in text else text[:200]
