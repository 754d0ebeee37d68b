"""What is sent: everything that chance decides is drawn before the load begins, request by request.

So a request costs the generator little when it is due, and the same scenario with the same seed is the same traffic,
whatever the service answers; only which action the feedback is about is the service's.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from msgspec import Struct, field
from numpy.typing import NDArray

from nbx.features.schema import Value
from nbx.loadtest.arrivals import Schedule
from nbx.loadtest.draws import draw_customers, draw_delays_s, draw_dicts, draw_values
from nbx.loadtest.scenario import BatchCall, Call, DecideCall, Emitted, EventsCall, Feedback, InteractionCall, Scenario

POOL = 1021
"""Contexts drawn per call of the mix: a prime, so that they do not march in step with anything."""
SIGNS = ("delivered", "seen", "answer")
ANSWERS = ("accepted", "declined", "dismissed")
Kind = Literal["decide", "batch", "events", "interaction"]


class Ask(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A decision that is asked for; the names are those of the service."""

    customer_id: str
    placement: str
    slots: int = 1
    context: dict[str, Value] = field(default_factory=dict)
    request_id: str = ""
    explain: str = "none"


class Tell(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event that is told; the names are those of the service."""

    event_id: str
    type: str
    customer_id: str = ""
    decision_id: str = ""
    slot: int = 0
    by: str = "customer"
    properties: dict[str, Value] = field(default_factory=dict)


class Request(NamedTuple):
    """One call."""

    kind: Kind
    asks: tuple[Ask, ...] = ()
    tells: tuple[Tell, ...] = ()


class Later(NamedTuple):
    """Something that happens after a decision was answered."""

    after_s: float
    type: str


class Traffic:
    """Everything a run sends.

    Parameters
    ----------
    scenario
        What is drawn.
    when
        When each request is due.
    run
        In ids of customers, requests and events: new for each run.
    """

    def __init__(self, scenario: Scenario, when: Schedule, run: str) -> None:
        self.when = when
        self._run = run
        self._mix = scenario.mix
        self._prefix = scenario.customers.prefix or f"load-{run}"
        self._count = scenario.customers.count
        count = len(when.due_s)
        rng = np.random.default_rng([scenario.seed, 0x3E57])
        weights = np.array([call.weight for call in scenario.mix])
        self.entry = rng.choice(len(weights), count, p=weights / weights.sum())
        """Which call of the mix each request is."""
        self.customer = draw_customers(scenario.customers, rng, count)
        self._contexts = [draw_dicts(getattr(call, "context", {}), rng, POOL) for call in scenario.mix]
        self._properties = [
            [draw_dicts(emitted.properties, rng, POOL) for emitted in getattr(call, "events", ())]
            for call in scenario.mix
        ]
        self._later_s = np.full((count, len(SIGNS)), np.nan, np.float32)
        self._answer = np.zeros(count, np.int8)
        for number, call in enumerate(scenario.mix):
            if model := getattr(call, "feedback", ""):
                (which,) = (self.entry == number).nonzero()
                self._draw_feedback(scenario.feedback[model], which, rng)
        self.profiles = self._draw_profiles(scenario, rng)
        """Customer → what its file says, of those who come."""

    def request(self, number: int) -> Request:
        """Make request `number`."""
        entry = int(self.entry[number])
        call = self._mix[entry]
        customer = self._customer_id(int(self.customer[number]))
        context = self._contexts[entry][number % POOL]
        name = f"{self._run}-{number}"
        match call:
            case DecideCall():
                return Request("decide", (self._ask(call, customer, context, name, call.explain),))
            case BatchCall():
                first = int(self.customer[number])
                ids = [self._customer_id((first + k) % self._count) for k in range(call.size)]
                asks = [self._ask(call, who, context, f"{name}.{k}") for k, who in enumerate(ids)]
                return Request("batch", tuple(asks))
            case EventsCall():
                return Request("events", tells=self._tells(number, call.events, customer))
            case InteractionCall():
                tells = self._tells(number, call.events, customer)
                return Request("interaction", (self._ask(call, customer, context, name),), tells)

    def later(self, number: int) -> list[Later]:
        """Return what happens after decision `number`, if it was an action."""
        found = []
        for sign, after_s in zip(SIGNS, self._later_s[number].tolist(), strict=True):
            if after_s == after_s:  # noqa: PLR0124 - not a number: it does not happen
                found.append(Later(after_s, ANSWERS[self._answer[number]] if sign == "answer" else sign))
        return found

    def feedback(self, number: int, kind: str, decision_id: str, slot: int) -> Request:
        """Make the event of a decision."""
        tell = Tell(event_id=f"{self._run}-{number}-{kind}", type=kind, decision_id=decision_id, slot=slot)
        return Request("events", tells=(tell,))

    def _ask(
        self,
        call: DecideCall | BatchCall | InteractionCall,
        customer: str,
        context: dict[str, Value],
        name: str,
        explain: str = "none",
    ) -> Ask:
        return Ask(
            customer_id=customer,
            placement=call.placement,
            slots=call.slots,
            context=context,
            request_id=name,
            explain=explain,
        )

    def _tells(self, number: int, events: list[Emitted], customer: str) -> tuple[Tell, ...]:
        drawn = self._properties[int(self.entry[number])]
        return tuple(
            Tell(
                event_id=f"{self._run}-{number}-{k}",
                type=emitted.type,
                customer_id=customer,
                by=emitted.by,
                properties=drawn[k][number % POOL],
            )
            for k, emitted in enumerate(events)
        )

    def _customer_id(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def _draw_feedback(self, model: Feedback, which: NDArray[np.int64], rng: np.random.Generator) -> None:
        count = len(which)
        at_s = np.zeros(count)
        goes_on = np.ones(count, bool)
        for column, sign in enumerate((model.delivered, model.seen)):
            if sign is None:
                continue
            goes_on &= rng.random(count) < sign.chance
            at_s = at_s + draw_delays_s(sign.after, rng, count)
            self._later_s[which, column] = np.where(goes_on, at_s, np.nan)
        if model.answers is not None:
            shares = np.array([model.answers.accepted, model.answers.declined, model.answers.dismissed])
            said = np.searchsorted(shares.cumsum(), rng.random(count), side="right")
            at_s = at_s + draw_delays_s(model.answers.after, rng, count)
            self._later_s[which, 2] = np.where(goes_on & (said < len(ANSWERS)), at_s, np.nan)
            self._answer[which] = np.minimum(said, len(ANSWERS) - 1)

    def _draw_profiles(self, scenario: Scenario, rng: np.random.Generator) -> dict[str, dict[str, Value]]:
        declared = scenario.customers.profile
        if not declared:
            return {}
        numbers = np.unique(self.customer)
        columns = [draw_values(draw, rng, len(numbers)) for draw in declared.values()]
        rows = zip(*columns, strict=True)
        return {
            self._customer_id(int(number)): dict(zip(declared, row, strict=True))
            for number, row in zip(numbers, rows, strict=True)
        }


def calls_with_decisions(mix: list[Call]) -> list[DecideCall | BatchCall | InteractionCall]:
    """Return the calls that ask for a decision."""
    return [call for call in mix if not isinstance(call, EventsCall)]
