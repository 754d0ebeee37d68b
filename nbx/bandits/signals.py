"""Signal loss: when a placement's `seen` events stop, who teaches is no longer decided by who was shown.

With reported impressions a yes proves exposure by itself, and a silence proves nothing without its `seen`. Lose the
`seen` and only answers are left to learn from: every estimate rises. The answers come within seconds, the timers that
show the loss up to half an hour later, so an alarm alone is too late. Two rules hold together:

- *Gate*, at once and per outcome: where answers normally come with a reported `seen`, one without teaches nothing. A
  yes and a silence are then admitted by the same proof, so any loss that does not depend on the answer leaves the
  estimates alone, a partial one too. A `seen` that arrives after its answer makes a new revision, which teaches.
- *Pause*, by evidence: when the share collapses, what is left may be no fair sample (a page that loses its `seen` on
  every click), so nothing of the placement teaches until the share is back.

The pause is a sequential probability ratio test, reflected at both ends: doubt rises and falls by the log-likelihood
ratio of "at most 0.3 of the usual share" against "at least 0.7 of it", within [0, `ALARM`]; lost at the top, found
again at 0. 27 answers without `seen` are enough where nearly all had one. Two streams are tested. *Answers*: with a
reported `seen` or not. *Timeouts*, slots nobody answered: `ignored` (seen) or `not_seen`, `not_delivered`; later, but
the only evidence where hardly anybody answers. What is seen also depends on the page, so a timeout counts against the
signal only when no answer to a later decision came with its `seen`. The usual share is learned, and kept as it was for
as long as the signal is lost.

A channel that never reports `seen` has no usual share: its answers teach from the first one on, and the estimates mean
acceptance among those who answered. One with implicit impressions always has it. So declaring a placement implicit is
also the way out when a channel has stopped for good. A loss so slow that the usual share follows it (over some 2,000
answers) raises no alarm; the gate still holds until less than half of the answers are reported.

River: `drift.PageHinkley` has no way back and starts anew after each alarm; `drift.ADWIN` and `stats.EWMean` are
compiled and keep their state to themselves. A checkpoint has to restore this to the bit, so it is a few plain floats.

Source: Wald, Sequential Analysis (1947); Page, Continuous inspection schemes, Biometrika 41 (1954).
"""

from __future__ import annotations

import math

from msgspec import Struct, field

REPORTS = 0.5
"""Share of answers with a reported `seen` from which on a channel counts as reporting it."""
SOME_SEEN = 0.1
"""Share of timeouts seen below which their absence proves nothing."""
USUAL, GONE = 0.7, 0.3
"""The two hypotheses, as ratios to the usual share; what lies between moves slowly either way."""
ALARM = 20.0
"""Doubt, in nats. A share that is 0.7 of the usual one gets there by chance once in e²⁰ = 5 · 10⁸ outcomes or less
often; that much, as the outcomes of one customer are alike: at 12, four customers in a row whose browser never sends
`seen` were an alarm. Where the usual share is 0.95, 27 outcomes without `seen` get there; where it is 0.6, 58."""
SUREST = 0.98
"""Highest usual share believed: one missing `seen` is never proof."""
FEW = 30
"""Outcomes from which on a share counts as usual: the visits of a few testers do not make a signal that can be lost."""
MEMORY = 2_000
"""Outcomes the usual share remembers."""
RECENT = 20
"""Outcomes the recent share, which is only told, remembers."""


class Stream(Struct):
    """One kind of evidence of one placement."""

    taken: int = 0
    """Outcomes counted since the beginning."""
    count: float = 0.0
    """Outcomes behind the usual share, forgetting."""
    seen: float = 0.0
    """Of them with a reported `seen`."""
    recent: float = 0.0
    """Share of the latest with a reported `seen`."""
    doubt: float = 0.0
    """0..`ALARM`"""
    waiting: float = 0.0
    """Outcomes since there is doubt: part of what is usual once it is gone, and not when it turns out right."""
    waiting_seen: float = 0.0
    lost: bool = False

    @property
    def share(self) -> float:
        """The usual share, 0..1; one outcome without `seen` is presumed."""
        return self.seen / (self.count + 1.0)

    def take(self, *, seen: bool, late: bool, counts: bool, frozen: bool, bar: float) -> None:
        """Take in an outcome.

        Parameters
        ----------
        seen
            Its exposure was reported.
        late
            It was taken in before, as unseen.
        counts
            It may move the doubt.
        frozen
            The placement is paused: nothing about it is usual.
        bar
            Usual share below which there is nothing to lose.
        """
        self.taken += not late
        latest = min(max(self.taken, 1), RECENT)
        self.recent = min(self.recent + (1.0 if late else seen - self.recent) / latest, 1.0)
        if not frozen:
            self.waiting += not late
            self.waiting_seen += seen
        if self.lost or (self.count >= FEW and self.share >= bar):
            by = self.ratio(seen=seen) - (self.ratio(seen=False) if late else 0.0)
            if counts:
                self.doubt = min(max(self.doubt + by, 0.0), ALARM)
            if self.doubt == ALARM:
                self.lost, self.waiting, self.waiting_seen = True, 0.0, 0.0
        else:
            self.doubt = 0.0
        if self.doubt == 0.0:
            self.calm()

    def calm(self) -> None:
        """End all doubt: what was waiting was as usual."""
        keep = (1.0 - 1.0 / MEMORY) ** self.waiting
        self.count = self.count * keep + self.waiting
        self.seen = min(self.seen * keep + self.waiting_seen, self.count)
        self.doubt = self.waiting = self.waiting_seen = 0.0
        self.lost = False

    def ratio(self, *, seen: bool) -> float:
        """Log-likelihood ratio of "gone" against "usual" for one outcome, nats."""
        if seen:
            return math.log(GONE / USUAL)
        usual = min(self.share, SUREST)
        return math.log((1.0 - GONE * usual) / (1.0 - USUAL * usual))


class Signal(Struct):
    """What is known about the `seen` events of one placement, and so of its channel there. A fold of its outcomes.

    Examples
    --------
    >>> signal = Signal()
    >>> for n in range(100):
    ...     signal.answer(seen=True, late=False, decided_ms=n)
    >>> for n in range(30):
    ...     signal.answer(seen=False, late=False, decided_ms=100 + n)
    >>> signal.reports, signal.lost
    (True, True)
    """

    answers: Stream = field(default_factory=Stream)
    timeouts: Stream = field(default_factory=Stream)
    seen_ms: int = -1
    """Decision time of the latest answer that came with its `seen`."""
    since_ms: int = 0
    """Time of the outcome by which it was last lost or found again; 0: never lost."""

    @property
    def lost(self) -> bool:
        """Whether the placement is paused."""
        return self.answers.lost or self.timeouts.lost

    @property
    def reports(self) -> bool:
        """Whether answers normally come with a reported `seen`."""
        return self.answers.share >= REPORTS

    def answer(self, *, seen: bool, late: bool, decided_ms: int) -> None:
        """Take in an answer that proves exposure; `late`: the same answer was taken in before, without its `seen`."""
        self.answers.take(seen=seen, late=late, counts=True, frozen=self.lost, bar=REPORTS)
        if seen and decided_ms > self.seen_ms:
            self.seen_ms = decided_ms
            self.timeouts.calm()

    def timeout(self, *, seen: bool, late: bool, decided_ms: int) -> None:
        """Take in a slot nobody answered; `late`: it was taken in before, as unseen."""
        counts = seen or decided_ms > self.seen_ms
        self.timeouts.take(seen=seen, late=late, counts=counts, frozen=self.lost, bar=SOME_SEEN)

    def health(self, placement: str) -> SignalHealth:
        """Return what is told about it."""
        return SignalHealth(
            placement=placement,
            lost=self.lost,
            since_ms=self.since_ms,
            reports=self.reports,
            answers=self.answers.taken,
            answers_usual_ratio=round(self.answers.share, 4),
            answers_recent_ratio=round(self.answers.recent, 4),
            timeouts=self.timeouts.taken,
            timeouts_usual_ratio=round(self.timeouts.share, 4),
            timeouts_recent_ratio=round(self.timeouts.recent, 4),
        )


class SignalHealth(Struct, frozen=True, kw_only=True):
    """How the `seen` events of a placement are, for people."""

    placement: str
    lost: bool
    """Its outcomes teach nothing."""
    since_ms: int
    """Epoch milliseconds of the outcome by which it was last lost or found again; 0: never lost."""
    reports: bool
    """Its answers normally come with a reported `seen`; otherwise they teach without."""
    answers: int
    answers_usual_ratio: float
    """Share of answers with a reported `seen`, over some 2,000."""
    answers_recent_ratio: float
    """The same over some 20."""
    timeouts: int
    """Slots nobody answered."""
    timeouts_usual_ratio: float
    timeouts_recent_ratio: float
