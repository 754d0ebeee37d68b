"""What evidence is worth, learned from the outcomes whose cause somebody told.

Every outcome with an explicit cause or a reason code carries the evidence that would have been all there was without
it. River's Bernoulli naive Bayes learns from these, one at a time in log order, how causes and codes go together: once
over all codes with outcome and placement, for what the rules inferred, and once over the codes that do not depend on
the answer, for what a prompt may teach at all (`nbx.bandits.evidence.admission`). Where little was told, the declared
numbers hold: both count by how often the rarest code at hand was told of.

Counts are exact under correction and forget with the time of the decision, as in `nbx.bandits.teaching`: an observation
at t weighs 2^((t − base) / half-life), so that nothing has to be scaled as time passes, and one that is taken back
takes exactly its weight along. They lie in plain dicts, which a checkpoint holds as they are.

What customers and agents tell is no fair sample of causes if some kinds of failure are told more readily than others
that look alike; then the share of those is overrated here as anywhere. Also kept: how often the rules alone would have
been right, each time before the truth was taken in.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable

from msgspec import Struct, field

from nbx.bandits.evidence import CODES, KNOWN, ROUTES, CauseTable, admission, bare, independent, inferred, posterior
from nbx.bandits.river_parts import metrics, naive_bayes

HALF_LIFE_MS = 30 * 86_400_000
"""Of what is known about causes: pages and scripts are mended within weeks."""
PRIOR_COUNT = 10.0
"""Told outcomes that weigh as much as what is declared."""
EXPLICIT = frozenset({"explicit_cause", "reason_code"})
"""Rules by which a cause was told and not inferred."""
REBASE = 40
"""Half-lives after which weights are brought back to size: a power of two, so nothing is rounded."""
LEAST = 1e-9
"""Weight below which a count is what rounding left of one that was taken back."""


class WeightedNB(naive_bayes.BernoulliNB):
    """River's Bernoulli naive Bayes, with weights.

    Examples
    --------
    >>> model = WeightedNB()
    >>> model.learn_one({"page_errors": True}, "execution", w=2.0)
    >>> model.learn_one({"seen": True}, "assumption")
    >>> model.predict_one({"page_errors": True})
    'execution'
    """

    def learn_one(self, x: dict[str, bool], y: str, w: float = 1.0) -> None:
        """Take in one observation, or with a weight below 0 take one back."""
        self.class_counts[y] += w
        for name, there in x.items():
            self.feature_counts[name][y] += w if there else 0.0
        if w < 0.0:
            self._forget(y)

    def predict_proba_one(self, x: dict[str, bool]) -> dict[str, float]:
        """Return what River's own does, without arrays for four numbers: in a quarter of the time."""
        joint = self.joint_log_likelihood(x)
        highest = max(joint.values(), default=0.0)
        weights = {cause: math.exp(each - highest) for cause, each in joint.items()}
        total = sum(weights.values())
        return {cause: weight / total for cause, weight in weights.items()}

    def _forget(self, y: str) -> None:
        """Leave no trace of what was taken back altogether: also a code without counts would weigh on the others."""
        if self.class_counts[y] <= LEAST:
            del self.class_counts[y]
        for name, counts in list(self.feature_counts.items()):
            if y not in self.class_counts or counts[y] <= LEAST:
                counts.pop(y, None)
            if not counts:
                del self.feature_counts[name]


class Counts(Struct, dict=True):
    """Weighted counts of told outcomes, and the model over them."""

    causes: dict[str, float] = field(default_factory=dict)
    codes: dict[str, dict[str, float]] = field(default_factory=dict)
    """Code → cause → weight."""
    base_ms: int = 0
    """Time at which an observation weighs 1."""
    latest_ms: int = 0

    def __post_init__(self) -> None:
        self.model = WeightedNB()
        self.model.class_counts = Counter(self.causes)
        self.model.feature_counts = defaultdict(Counter, {code: Counter(at) for code, at in self.codes.items()})
        self.causes, self.codes = self.model.class_counts, self.model.feature_counts
        self._known: dict[tuple[str, ...], dict[str, float]] = {}

    def add(self, sign: float, codes: Iterable[str], cause: str, at_ms: int) -> None:
        """Take in what was told of a decision at a time (sign 1), or take it back (−1)."""
        if not self.causes:
            self.base_ms = at_ms
        self.latest_ms = max(self.latest_ms, at_ms)
        while self.latest_ms - self.base_ms > REBASE * HALF_LIFE_MS:
            self.base_ms += REBASE * HALF_LIFE_MS
            for counts in (self.causes, *self.codes.values()):
                for each in counts:
                    counts[each] *= 2.0**-REBASE
        self.model.learn_one(dict.fromkeys(codes, True), cause, sign * self._weight(at_ms))
        self._known.clear()

    def blended(self, codes: tuple[str, ...], declared: dict[str, float]) -> dict[str, float]:
        """Return the probabilities of causes given codes: what was told of such, and what is declared."""
        told = self.told(codes)
        if told == 0.0:
            return declared
        known = self._known.get(codes)
        if known is None:
            self.model.alpha = self._weight(self.latest_ms)
            known = self._known[codes] = self.model.predict_proba_one(dict.fromkeys(codes, True))
        return {
            cause: (told * known.get(cause, 0.0) + PRIOR_COUNT * share) / (told + PRIOR_COUNT)
            for cause, share in declared.items()
        }

    def told(self, codes: tuple[str, ...]) -> float:
        """Return how often the rarest of some codes was told of, as of the latest decision."""
        if not codes or not self.causes:
            return 0.0
        rarest = min(sum(self.codes[code].values()) if code in self.codes else 0.0 for code in codes)
        return max(rarest, 0.0) / self._weight(self.latest_ms)

    def _weight(self, at_ms: int) -> float:
        return math.exp2((at_ms - self.base_ms) / HALF_LIFE_MS)


class Told(Struct, frozen=True, kw_only=True):
    """One revision of an outcome, as far as its cause goes."""

    placement: str
    outcome: str
    cause: str
    evidence: tuple[str, ...]
    rule: str


class Calibration(Struct):
    """The state of it, a fold of told outcomes in log order.

    Examples
    --------
    >>> calibration = Calibration()
    >>> shown = ("not_viewable",)
    >>> calibration.admission(shown, "hero")
    0.0
    >>> for n in range(90):
    ...     told = Told(
    ...         placement="hero", outcome="declined", cause="assumption", evidence=shown, rule="explicit_cause"
    ...     )
    ...     calibration.take(told, None, n)
    >>> round(calibration.admission(shown, "hero"), 1)
    0.9
    """

    every: Counts = field(default_factory=Counts)
    """By all codes, outcome and placement."""
    prompts: Counts = field(default_factory=Counts)
    """By the codes that do not depend on the answer, and placement."""
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    """Cause as told → cause the rules alone would have given → outcomes."""

    def take(self, now: Told, before: Told | None, decided_ms: int) -> None:
        """Take in a revision in place of the one before; only causes that were told count."""
        if now == before:
            return
        for sign, each in ((-1, before), (1, now)):
            if each is None or each.rule not in EXPLICIT or each.cause not in KNOWN:
                continue
            codes = bare(each.evidence)
            row = self.confusion.setdefault(each.cause, {})
            guess = inferred(codes)[0]
            row[guess] = row.get(guess, 0) + sign
            where = f"placement={each.placement}"
            self.every.add(sign, (*codes, f"outcome={each.outcome}", where), each.cause, decided_ms)
            self.prompts.add(sign, (*independent(codes), where), each.cause, decided_ms)

    def admission(self, evidence: Iterable[str], placement: str) -> float:
        """Return what any answer to a prompt with such evidence weighs in the response model; 1 without any."""
        codes = independent(bare(evidence))
        if not codes:
            return 1.0
        return admission(self.prompts.blended((*codes, f"placement={placement}"), posterior(codes)))

    def weight(self, now: Told, otherwise: float) -> float:
        """Return the weight of a negative answer whose cause was inferred from what depends on it; 0..1.

        `otherwise`: by the inferred cause alone; it counts for as much as the declared numbers do elsewhere.
        """
        codes = (*bare(now.evidence), f"outcome={now.outcome}", f"placement={now.placement}")
        shares = self.every.blended(codes, dict.fromkeys(KNOWN, 0.0))
        told = self.every.told(codes)
        return sum(share * ROUTES[cause].response for cause, share in shares.items()) + otherwise * PRIOR_COUNT / (
            told + PRIOR_COUNT
        )

    def table(self) -> CauseTable:
        """Return what is told about it."""
        matrix = metrics.ConfusionMatrix()
        for cause, row in self.confusion.items():
            for guess, count in row.items():
                if count:
                    matrix.update(cause, guess, w=count)
        right = metrics.Accuracy(cm=matrix).get() if matrix.total_weight else None
        evidence = {}
        for code in sorted(CODES):
            told, counts = self.every.told((code,)), self.every.codes.get(code, {})
            size = max(sum(counts.values()), LEAST)
            evidence[code] = {
                cause: round((told * counts.get(cause, 0.0) / size + PRIOR_COUNT * share) / (told + PRIOR_COUNT), 4)
                for cause, share in posterior((code,)).items()
            }
        often = {code: round(self.every.told((code,)), 2) for code in sorted(CODES)}
        return CauseTable(evidence=evidence, told=often, confusion=self.confusion, right_ratio=right)
