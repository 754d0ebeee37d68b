"""What a catalog has to pass before it is published: reading, compiling, its warnings told, its own examples."""

from __future__ import annotations

from msgspec import Struct

from nbx.catalog.lint import lint_catalog
from nbx.catalog.model import Catalog
from nbx.catalog.parse import parse_catalog
from nbx.catalog.plan import Plan
from nbx.decision.examples import ExampleResult, run_examples
from nbx.errors import SetupError


class ExamplesFailed(SetupError):
    """Examples of the catalog do not hold; `faults` has what each expected and what came."""

    code = "examples_failed"


class Checked(Struct, frozen=True, kw_only=True):
    """A catalog without faults, and what else is to be said of it."""

    text: str
    catalog: Catalog
    columns: int
    """Of x."""
    warnings: tuple[str, ...]
    examples: tuple[ExampleResult, ...]

    @property
    def failing(self) -> tuple[str, ...]:
        """Examples that do not hold, in words."""
        return tuple(f"{each.name}: {'; '.join(each.words)}" for each in self.examples if not each.passed)

    def publishable(self) -> Checked:
        """Return itself; `ExamplesFailed` when an example does not hold."""
        failing = self.failing
        if failing:
            count = "an example" if len(failing) == 1 else f"{len(failing)} examples"
            words = f"{count} of the catalog {'does' if len(failing) == 1 else 'do'} not hold; nothing was published"
            raise ExamplesFailed(words, faults=failing, field="examples")
        return self


def check_text(text: str, source: str = "catalog") -> Checked:
    """Check a catalog; 500 actions in about half a second, so never on an event loop.

    Raises
    ------
    CatalogFaults
        With every fault.

    Examples
    --------
    >>> check_text("{catalog: retail}").publishable().catalog.name
    'retail'
    """
    catalog = parse_catalog(text, source=source)
    plan = Plan(catalog, 0)
    return Checked(
        text=text,
        catalog=catalog,
        columns=len(plan.layout.columns),
        warnings=tuple(str(finding) for finding in lint_catalog(catalog)),
        examples=run_examples(plan),
    )
