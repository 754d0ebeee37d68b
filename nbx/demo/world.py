"""A simulated retail bank: who its customers are, when they come by, and how they take what they are shown.

Everything is drawn from one seed. How customer c takes action a on its v-th visit is decided by uniform numbers hashed
from (seed, c, v, a), so every policy faces the same people with the same luck (common random numbers), and differences
between policies are differences of choice.

What customers want is hidden from the bank: acceptance has log-odds linear in what the bank knows, plus interactions
and a personal taste it cannot know, lowered by fatigue (recent prompts, weighed by a personal irritability) and by lost
goodwill (failures, complaints, irrelevance). The names are those of `examples/retail_bank.yaml`; actions of other
catalogs get `OTHER`.

Not here: the bank. Limits, pauses, floor and balance are the service's code, in `nbx.demo.comparators` too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nbx.catalog.model import OutcomeName
from nbx.features.schema import Value
from nbx.hashing import uniform

FATIGUE_HALF_LIFE_DAYS = 1.5
GOODWILL_HALF_LIFE_DAYS = 10.0
PAGE_ERRORS = 0.08
"""Share of website prompts lost to a page error before anybody saw them."""
AGENT_SKIPS = 0.10
"""Share of scripts an agent leaves out."""
LATE_ANSWERS = 0.05
"""Share of acceptances that come after attention has run out: late truth for the learner."""
CALLS = 0.18
"""Share of visits that are calls to the contact centre."""
SIDEBAR = 0.25
"""Share of website visits that ask for the sidebar instead of the hero."""

PRESENCE = 0.6
"""Share of the time during which a customer comes by: people come and go, so the mix of fresh and tired is steady."""

SECTIONS = ("cards", "savings", "loans", "travel", "support")
REASONS = ("card", "payment", "mortgage", "complaint", "other")

Weights = Mapping[str, float]

TRUTH: dict[str, Weights] = {
    "card_upgrade": {"one": -2.5, "spend": 1.1, "plus": 0.7, "age": -0.5, "high": 0.5, "cards": 1.2, "evening": 0.3},
    "travel_card": {"one": -1.9, "age": -0.5, "high": 0.8, "mobile": 0.4, "spend": 0.6, "young*mobile": 0.6},
    "virtual_card": {"one": -1.8, "age": -0.8, "cards": 0.9, "support": -0.6, "mobile": 0.4},
    "savings_start": {"one": -2.3, "age": -0.4, "savings": 1.6, "low": -0.7, "high": 0.4, "young*mobile": 0.7},
    "savings_round_up": {"one": -1.6, "spend": 0.6, "savings": 0.9, "age": -0.4, "mobile": 0.3},
    "pension_review": {"one": -3.0, "age": 0.9, "high": 0.6, "savings": 0.9, "phone": 0.9, "complaint": -1.5},
    "mortgage_rate_check": {
        "one": -3.1,
        "loans": 1.8,
        "mortgage": 2.1,
        "tenure": 0.5,
        "payment": -0.8,
        "complaint": -1.2,
    },
    "home_energy_loan": {"one": -3.2, "loans": 1.7, "age": 0.3, "high": 0.5, "evening": 0.3},
    "security_checkup": {"one": -1.5, "age": 0.4, "support": 0.9, "mobile": -0.3},
    "app_setup_help": {"one": -1.6, "age": -0.3, "mobile": 0.5, "support": 0.7, "payment": 0.6, "young*mobile": 0.4},
    "payment_delay_notice": {"one": 1.8},
    "satisfaction_question": {"one": -1.5, "tenure": 0.6, "age": 0.2, "support": -0.5},
    "apology_voucher": {"one": 0.2, "complaint": 1.2, "hurt": 0.6},
    "callback_offer": {"one": -1.5, "age": 0.5, "digital": -0.5, "hurt": 0.6},
}
"""Action → log-odds of acceptance by what matters to it. `hurt` is lost goodwill; `a*b` an interaction."""
OTHER: Weights = {"one": -2.5}


@dataclass(frozen=True, slots=True)
class Customer:
    """One customer: what the bank's file says, and what nobody knows."""

    customer_id: str
    profile: dict[str, Value]
    irritability: float
    """Hidden: how much one more prompt tires, 1 on average."""
    interests: tuple[float, ...]
    """Hidden: share of visits in each of `SECTIONS`."""
    monthly_spend: float
    weight: float
    """Hidden: how often this customer comes by, relative to others."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """Something a customer does before the bank is asked for an action."""

    type: str
    properties: dict[str, Value]


@dataclass(frozen=True, slots=True)
class Visit:
    """One moment at which a placement asks for actions."""

    customer: int
    """Index of the customer."""
    number: int
    """Counts the visits of this customer from 0."""
    at_ms: int
    """Milliseconds after the world begins."""
    placement: str
    slots: int
    context: dict[str, Value]
    behaviour: tuple[Behaviour, ...]
    quantities: dict[str, float]
    """What the truth is computed from."""

    @property
    def is_call(self) -> bool:
        """Whether it comes over the contact centre."""
        return self.placement == "agent_desktop"


@dataclass(slots=True)
class Mind:
    """How a customer stands to the bank; hidden, and different under every policy."""

    fatigue: float = 0.0
    goodwill: float = 0.0
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One event of a response."""

    delay_ms: int
    """After the decision."""
    type: str
    by: str = "customer"
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """What happens to one shown action."""

    steps: tuple[Step, ...]
    """In order of delay."""
    outcome: OutcomeName
    """Where the slot ends up once every event and timer has spoken."""
    seen: bool


class World:
    """The bank's customers and their visits.

    Parameters
    ----------
    seed
        Decides everything.
    customers
        How many.
    visits
        How many in all.
    length_ms
        Over how many milliseconds they are spread.
    day_ms
        Milliseconds of one day of the customers' life: 86,400,000 unless time is made to pass faster.
    prefix
        Of customer ids.

    Examples
    --------
    >>> world = World(seed=1, customers=3, visits=5, length_ms=1_000, day_ms=100)
    >>> len(world.visits), world.customers[0].customer_id
    (5, 'c-00000')
    """

    def __init__(
        self, seed: int, *, customers: int, visits: int, length_ms: int, day_ms: float, prefix: str = "c"
    ) -> None:
        rng = np.random.default_rng(seed)
        self.seed = seed
        self.day_ms = day_ms
        self.customers = [_customer(f"{prefix}-{i:05d}", rng) for i in range(customers)]
        weights = np.array([customer.weight for customer in self.customers])
        who = rng.choice(customers, size=visits, p=weights / weights.sum())
        starts = rng.uniform(0, length_ms, customers)
        when = ((starts[who] + rng.uniform(0, PRESENCE * length_ms, visits)) % length_ms).astype(int)
        order = np.argsort(when, kind="stable")
        who, when = who[order], when[order]
        seen = [0] * customers
        self.visits = []
        for customer, at_ms in zip(who.tolist(), when.tolist(), strict=True):
            self.visits.append(_visit(self.customers[customer], customer, seen[customer], at_ms, rng))
            seen[customer] += 1

    def respond(self, visit: Visit, action: str, mind: Mind, at_ms: int, *, implicit: bool) -> Response:
        """Return how the visit's customer takes an action; `mind` lives through it.

        Parameters
        ----------
        visit
            During which it is shown.
        action
            Its name.
        mind
            Of the visit's customer under the policy that shows it; changed in place.
        at_ms
            When, on the clock of `Visit.at_ms`.
        implicit
            Whether an agent brings it up, so that nobody reports an impression.
        """
        self._pass_time(mind, at_ms)
        customer = self.customers[visit.customer]
        key = f"{visit.customer}/{visit.number}/{action}"
        luck = [uniform(f"{key}/{what}", str(self.seed)) for what in ("fault", "answer", "kind", "complaint", "pause")]
        if implicit and luck[0] < AGENT_SKIPS:
            reason = "no_time" if luck[2] < 0.7 else "unsuitable"
            return Response((Step(_between(luck[4], 60, 300), "skipped", "agent", reason),), "not_seen", seen=False)
        if not implicit and luck[0] < PAGE_ERRORS:
            mind.goodwill -= 0.5
            steps = [Step(25, "failed", reason="page_error")]
            if luck[3] < 0.02 * customer.irritability:
                steps.append(Step(_between(luck[4], 300, 1_200), "complained", reason="page_error"))
            return Response(tuple(steps), "complained" if len(steps) > 1 else "failed", seen=False)
        chance = self.chance(visit, action, mind)
        shown = () if implicit else (Step(15, "delivered"), Step(30, "seen"))
        answer = _between(luck[4], 150, 900)
        mind.fatigue += 0.45 * customer.irritability
        if luck[1] < chance:
            mind.goodwill += 0.3
            late = luck[3] < LATE_ANSWERS
            return Response((*shown, Step(answer + 1_800 * late, "accepted")), "accepted", seen=True)
        return self._refuse(visit, mind, shown, answer, luck, chance)

    def chance(self, visit: Visit, action: str, mind: Mind) -> float:
        """Return the true chance of acceptance, were the action seen now."""
        quantities = {**visit.quantities, "hurt": max(-mind.goodwill, 0.0)}
        odds = sum(weight * _quantity(name, quantities) for name, weight in TRUTH.get(action, OTHER).items())
        taste = 1.2 * (uniform(f"{visit.customer}/{action}/taste", str(self.seed)) - 0.5)
        mood = 0.5 * max(min(mind.goodwill, 1.0), -2.0) if "hurt" not in TRUTH.get(action, OTHER) else 0.0
        return 1.0 / (1.0 + math.exp(-(odds + taste + mood - 0.55 * mind.fatigue)))

    def _refuse(
        self, visit: Visit, mind: Mind, shown: tuple[Step, ...], answer: int, luck: list[float], chance: float
    ) -> Response:
        """Decline, dismiss or ignore, and complain when it is too much."""
        irritability = self.customers[visit.customer].irritability
        tired = 1.0 / (1.0 + math.exp(-(0.6 * mind.fatigue - 0.7)))
        ignores = 0.25 * tired if visit.is_call else tired
        mind.goodwill -= 0.08 * irritability * (2.0 if chance < 0.06 else 1.0)
        strain = math.exp(0.5 * min(mind.fatigue, 4.0) - 0.4 * max(mind.goodwill, -4.0))
        if luck[3] < 0.0012 * irritability * strain * (2.0 if chance < 0.06 else 1.0):
            mind.goodwill -= 1.0
            return Response((*shown, Step(2 * answer, "complained")), "complained", seen=True)
        if luck[2] < ignores:
            return Response(shown, "ignored", seen=True)
        dismisses = not visit.is_call and (luck[2] - ignores) / (1.0 - ignores) < 0.45
        outcome: OutcomeName = "dismissed" if dismisses else "declined"
        return Response((*shown, Step(answer, outcome)), outcome, seen=True)

    def _pass_time(self, mind: Mind, at_ms: int) -> None:
        days = max(at_ms - mind.at_ms, 0) / self.day_ms
        mind.fatigue *= 2.0 ** (-days / FATIGUE_HALF_LIFE_DAYS)
        mind.goodwill *= 2.0 ** (-days / GOODWILL_HALF_LIFE_DAYS)
        mind.at_ms = max(at_ms, mind.at_ms)


def _between(luck: float, low: int, high: int) -> int:
    return round(low + luck * (high - low))


def _quantity(name: str, quantities: Mapping[str, float]) -> float:
    product = 1.0
    for factor in name.split("*"):
        product *= quantities.get(factor, 0.0)
    return product


def _customer(customer_id: str, rng: np.random.Generator) -> Customer:
    age = float(np.clip(rng.normal(43, 16), 16, 88))
    earning = rng.normal(0.0, 1.0) + 0.5 - abs(age - 48) / 25
    income = "low" if earning < -0.6 else "middle" if earning < 0.7 else "high"
    tenure = float(np.clip(rng.exponential(6.0), 0.1, max(age - 16, 0.5)))
    prosperity = 0.6 * earning + 0.08 * tenure + rng.normal(0.0, 0.6)
    tier = "basic" if prosperity < 0.4 else "plus" if prosperity < 1.5 else "gold"
    spend = float(np.exp(rng.normal(5.8 + 0.35 * earning, 0.6)))
    digital = bool(rng.random() < 1 / (1 + math.exp((age - 58) / 9)))
    mortgage = bool(rng.random() < 0.62 * math.exp(-(((age - 46) / 16) ** 2)) + 0.08 * (income == "high"))
    base = np.array([1.0, 0.7 + 0.5 * (income != "low"), 0.3 + 1.2 * mortgage, 0.5 + 0.5 * (income == "high"), 0.6])
    interests = rng.dirichlet(base)
    profile: dict[str, Value] = {
        "age": float(round(age)),
        "tenure_years": round(tenure, 1),
        "tier": tier,
        "has_mortgage": mortgage,
        "has_savings": bool(rng.random() < 0.35 + 0.25 * (income == "high") + 0.1 * (age > 40)),
        "digital_active": digital,
        "consented_research": bool(rng.random() < 0.4),
    }
    if rng.random() < 0.9:  # the file has gaps
        profile["income_band"] = income
    return Customer(
        customer_id=customer_id,
        profile=profile,
        irritability=float(np.exp(rng.normal(-0.18, 0.6))),
        interests=tuple(interests.tolist()),
        monthly_spend=spend,
        weight=float(rng.gamma(2.0)) * (1.3 if digital else 0.7),
    )


def _visit(customer: Customer, index: int, number: int, at_ms: int, rng: np.random.Generator) -> Visit:
    hour = float(np.clip(round(rng.normal(10, 2) if rng.random() < 0.4 else rng.normal(18.5, 2.5)), 0, 23))
    call = rng.random() < CALLS
    section = SECTIONS[int(rng.choice(len(SECTIONS), p=customer.interests))]
    behaviour = []
    if number == 0:
        behaviour.append(Behaviour("card_purchase", {"amount": round(customer.monthly_spend * 0.8, 2)}))
    elif rng.random() < 0.4:
        behaviour.append(
            Behaviour("card_purchase", {"amount": round(customer.monthly_spend * rng.uniform(0.02, 0.2), 2)})
        )
    quantities = _known(customer, hour)
    context: dict[str, Value]
    if call:
        reason = REASONS[int(rng.choice(len(REASONS), p=_reasons(customer)))]
        sentiment = float(np.clip(rng.normal(-0.55 if reason == "complaint" else 0.15, 0.3), -1, 1))
        behaviour.append(Behaviour("call", {"sentiment": round(sentiment, 2)}))
        context = {"call_reason": reason, "hour": hour}
        quantities |= {"phone": 1.0, reason: 1.0}
        placement, slots = "agent_desktop", 2
    else:
        mobile = bool(rng.random() < (0.7 if customer.profile["digital_active"] else 0.3))
        behaviour.append(Behaviour("page_view", {"section": section}))
        context = {"is_mobile": mobile, "hour": hour}
        young = float(np.clip((40 - float(customer.profile["age"])) / 15, 0, 1.5))
        quantities |= {section: 1.0, "mobile": float(mobile), "young": young}
        placement, slots = ("web_sidebar", 2) if rng.random() < SIDEBAR else ("web_home_hero", 1)
    return Visit(index, number, at_ms, placement, slots, context, tuple(behaviour), quantities)


def _known(customer: Customer, hour: float) -> dict[str, float]:
    profile = customer.profile
    return {
        "one": 1.0,
        "age": (float(profile["age"]) - 42) / 15,
        "high": float(profile.get("income_band") == "high"),
        "low": float(profile.get("income_band") == "low"),
        "tenure": math.log1p(float(profile["tenure_years"])) / math.log(11) - 0.7,
        "plus": float(profile["tier"] == "plus"),
        "digital": float(profile["digital_active"]),
        "spend": math.log(customer.monthly_spend) - 5.8,
        "evening": (hour - 13) / 5,
    }


def _reasons(customer: Customer) -> list[float]:
    weights = [1.0, 1.2, 1.6 if customer.profile["has_mortgage"] else 0.0, 0.6, 1.0]
    return [weight / sum(weights) for weight in weights]
