"""Which features nobody may rely on for now: those that, time and again, turned out to be stale or wrong.

Counted per feature: outcomes of prompts whose placement used it, and of them those with cause `information` in whose
evidence it is named. Past a share of `LIMIT` with `ERRORS` of them it is quarantined: at its default for everybody, and
actions whose conditions read it are not offered. Whether it was stale or corrected is known of every decision all the
same, so the quarantine ends by itself when the recent share of those falls below half the limit.

A feature that is only ever named by customers leaves no such trace while nobody uses it: its quarantine ends after
`RECENT` prompts, and begins anew should they go on naming it. Likewise one whose actions were all there was to offer:
when nothing is heard of it for `REST_MS`, it is tried again.
"""

from __future__ import annotations

from msgspec import Struct

LIMIT = 0.3
"""Share of prompts with a wrong value from which on a feature does more harm than good."""
ERRORS = 30.0
"""Errors that are needed besides: a share of few says nothing."""
MEMORY = 500
"""Prompts that the share of errors remembers."""
RECENT = 100
"""Prompts that the recent share remembers, and the least a quarantine lasts."""
REST_MS = 86_400_000
"""How long a quarantine lasts of which nothing can be heard."""


class Trust(Struct):
    """What is known of one feature. A fold of outcomes.

    Examples
    --------
    >>> trust = Trust()
    >>> for n in range(120):
    ...     trust.take(used=True, wrong=n % 2 == 0, doubtful=n % 2 == 0, at_ms=n)
    >>> trust.quarantined
    True
    >>> for n in range(300):
    ...     trust.take(used=False, wrong=False, doubtful=False, at_ms=200 + n)
    >>> trust.quarantined
    False
    """

    taken: int = 0
    """Prompts since the beginning, or since it was quarantined or released."""
    used: float = 0.0
    """Prompts that relied on it, forgetting."""
    wrong: float = 0.0
    """Of them those whose outcome is put down to it."""
    recent: float = 0.0
    """Share of the latest prompts with a stale or corrected value, relied on or not."""
    quarantined: bool = False
    since_ms: int = 0
    """Time of the outcome by which it was last quarantined or released; 0: never."""
    heard_ms: int = 0
    """Time of the latest outcome of a prompt that might have used it."""

    @property
    def share(self) -> float:
        """Share of errors, 0..1."""
        return self.wrong / self.used if self.used else 0.0

    def take(self, *, used: bool, wrong: bool, doubtful: bool, at_ms: int) -> None:
        """Take in the first outcome of a prompt: its placement uses the feature.

        Parameters
        ----------
        used
            The decision relied on it.
        wrong
            The outcome is put down to it.
        doubtful
            Its value was stale or corrected.
        at_ms
            When.
        """
        self.taken, self.heard_ms = self.taken + 1, max(self.heard_ms, at_ms)
        self.recent += (doubtful - self.recent) / min(self.taken, RECENT)
        if used:
            keep = 1.0 - 1.0 / MEMORY
            self.used, self.wrong = self.used * keep + 1.0, self.wrong * keep + wrong
        self._judge(at_ms)

    def correct(self, *, wrong: int, doubtful: int, at_ms: int) -> None:
        """Move what a later truth says otherwise than the outcome taken in: 1 more, −1 less."""
        self.wrong = min(max(self.wrong + wrong, 0.0), self.used)
        self.recent = min(max(self.recent + doubtful / min(max(self.taken, 1), RECENT), 0.0), 1.0)
        self._judge(at_ms)

    def rest(self, at_ms: int) -> None:
        """End a quarantine of which nothing was heard for long; something else happened at that time."""
        if self.quarantined and at_ms - self.heard_ms > REST_MS:
            self._turn(at_ms)

    def health(self, feature: str) -> FeatureHealth:
        """Return what is told about it."""
        return FeatureHealth(
            feature=feature,
            quarantined=self.quarantined,
            since_ms=self.since_ms,
            used=round(self.used, 2),
            wrong=round(self.wrong, 2),
            recent_ratio=round(self.recent, 4),
        )

    def _judge(self, at_ms: int) -> None:
        if self.quarantined:
            change = self.taken >= RECENT and self.recent < LIMIT / 2.0
        else:
            change = self.wrong >= ERRORS and self.share > LIMIT
        if change:
            self._turn(at_ms)

    def _turn(self, at_ms: int) -> None:
        self.quarantined = not self.quarantined
        self.taken, self.used, self.wrong, self.since_ms = 0, 0.0, 0.0, at_ms


class FeatureHealth(Struct, frozen=True, kw_only=True):
    """How far a feature can be trusted, for people."""

    feature: str
    quarantined: bool
    since_ms: int
    """Epoch milliseconds of the outcome by which it was last quarantined or released; 0: never."""
    used: float
    """Prompts that relied on it, forgetting; 0 after a change."""
    wrong: float
    """Of them those whose outcome is put down to it."""
    recent_ratio: float
    """Share of some 100 latest prompts with a stale or corrected value."""
