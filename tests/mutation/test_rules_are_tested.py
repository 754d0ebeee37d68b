"""Every rule that protects a customer is broken, one at a time, in a copy of nbx: some test has to notice.

A mutation is a small change of text. One whose text is no longer there fails too: then the rule was rewritten, and the
mutation has to be written anew. A survivor is a rule that no test holds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
RUN_S = 900
"""Longest time one run may take; a loaded machine needs minutes where an idle one needs seconds."""

RULES = (
    "tests/unit/decision/test_slates.py",
    "tests/unit/decision/test_eligibility.py",
    "tests/property/test_rules.py",
    "tests/simulation/test_guardrails_simulation.py",
)
PAUSES = ("tests/unit/experience/test_pauses.py", "tests/unit/experience/test_reservations.py", *RULES[1:])
QUIET = ("tests/unit/decision/test_quiet_hours.py", "tests/property/test_quiet_hours.py")
CONSENT = ("tests/unit/experience/test_consent.py", *RULES)
LEARNS = ("tests/unit/experience/test_consent.py", "tests/unit/runtime/test_learning_consent.py")
JOURNEYS = ("tests/unit/experience/test_journeys.py", "tests/unit/experience/test_two_sides.py")
STAKES = ("tests/unit/decision/test_telling_apart.py",)
CLUSTERS = ("tests/unit/bandits/test_clusters.py", *STAKES)
HOLDOUT = ("tests/unit/experience/test_holdout.py", *RULES)
DEGRADED = ("tests/unit/decision/test_degraded.py", "tests/unit/decision/test_eligibility.py")
BUDGETS = (
    "tests/unit/decision/test_budgets.py",
    "tests/unit/decision/test_ledger.py",
    "tests/simulation/test_budgets_simulation.py",
)


class Mutation(NamedTuple):
    """A rule, broken."""

    path: str
    """Below `nbx`."""
    text: str
    """As it stands there, once."""
    broken: str
    tests: tuple[str, ...]
    """Run in this order until one fails."""


def _of(path: str, tests: tuple[str, ...], *changes: tuple[str, str]) -> list[Mutation]:
    return [Mutation(path, text, broken, tests) for text, broken in changes]


MUTATIONS = [
    *_of(
        "decision/eligibility.py",
        RULES,
        ("    for name in exclude:\n", "    for name in ():\n"),
        ('if facts.holdout == "silent":', 'if facts.holdout == "loud":'),
        ('filter_.remove(placement.optional, "holdout"', 'filter_.remove(placement.optional[1:], "holdout"'),
        ("    _keep_terms(filter_, placement, facts.now_ms)\n", ""),
        ("        if now_ms < term.starts_ms:\n", "        if now_ms < term.starts_ms - 600_000:\n"),
        ("elif term.ends_ms and now_ms >= term.ends_ms:", "elif term.ends_ms and now_ms < term.ends_ms:"),
        ("    if not facts.may_contact:\n", "    if facts.may_contact:\n"),
        ("filter_.remove(placement.consenting,", "filter_.remove(placement.optional,"),
        ("if not self._facts.personalised and number in plan.personal:", "if False and number in plan.personal:"),
        ("return None if self._held[place] else (reason,", "return None if not self._held[place] else (reason,"),
        ("            filter_.remove(check.positions, *failure)\n", "            pass\n"),
        (
            "                if number:\n                    chosen",
            "                if number > 1:\n                    chosen",
        ),
        ("    if now_ms < option.starts_ms:\n", "    if now_ms > option.starts_ms:\n"),
        ("    for layer, number in option.checks:\n", "    for layer, number in option.checks[1:]:\n"),
        ("    if facts.balance < (floor", "    if facts.balance < 2 * (floor"),
        ("        filter_.remove(placement.quieted,", "        filter_.remove(placement.consenting,"),
        ("    if until_ms:\n        filter_", "    if not until_ms:\n        filter_"),
        ("if pause.until_ms > facts.now_ms and scope", "if pause.until_ms > facts.now_ms + 60_000 and scope"),
        (
            'filter_.remove(placement.pausable[scope], "paused", f"{where}{pause',
            'filter_.remove(placement.pausable[scope][1:], "paused", f"{where}{pause',
        ),
        (
            'filter_.remove(placement.pausable[scope], "paused", f"{where}the customer',
            'filter_.remove(placement.pausable[scope][1:], "paused", f"{where}the customer',
        ),
        ('            filter_.remove(positions, "too_soon", detail)\n', "            pass\n"),
        ('            filter_.remove(positions, "limit_reached", detail)\n', "            pass\n"),
    ),
    *_of(
        "decision/eligibility.py",
        ("tests/property/test_rules.py", *BUDGETS),
        ('            filter_.remove(np.array([position]), "budget_spent", detail)\n', "            pass\n"),
    ),
    *_of(
        "decision/contact_policy.py",
        RULES,
        ("            if reserved.until_ms > now_ms:\n", "            if reserved.until_ms > now_ms + 60_000:\n"),
        ("for scope in (*scopes, channel_scope(reserved.channel), OVERALL):", "for scope in (*scopes, OVERALL):"),
        (
            "for scope in (*scopes, channel_scope(reserved.channel), OVERALL):",
            "for scope in (*scopes, channel_scope(reserved.channel)):",
        ),
        ("self._open[scope] = self._open.get(scope, 0) + 1", "self._open[scope] = 1"),
        ("                    total[scope] = total.get(scope, 0) + count\n", "                    total[scope] = 1\n"),
        ("                total[OVERALL] = total.get(OVERALL, 0) + count\n", ""),
        (
            "            total[scope] = total.get(scope, 0) + count\n        return total",
            "            pass\n        return total",
        ),
        ("since_s = (self._now_ms - limit.per_ms) // 1000", "since_s = (self._now_ms - limit.per_ms // 2) // 1000"),
        ("- bisect_left(times, since_s) for", "- bisect_left(times, since_s) - 1 for"),
        ("return limit.max - seen - self._open.get(scope, 0)", "return limit.max - seen"),
        ("return limit.max - seen - self._open.get(scope, 0)", "return limit.max - self._open.get(scope, 0)"),
        ("(last_s + 1) * 1000 + gap_ms if", "(last_s + 1) * 1000 + gap_ms // 2 if"),
        ("            until_ms = max(until_ms, self._now_ms + gap_ms)\n", "            pass\n"),
        ("            yield from touches.values()\n", "            yield from ()\n"),
        ("yield touches.get(scope.removeprefix(CHANNEL), [])", "yield []"),
        ("if contacts.most < placement.least_shared and", "if contacts.most <= placement.least_shared and"),
        ("and contacts.longest < placement.least_own:", "and contacts.longest <= placement.least_own:"),
        ("max(sum(counts), seen) + open_, max(counts) + open_", "max(sum(counts), seen), max(counts) + open_"),
        ("max(sum(counts), seen) + open_, max(counts) + open_", "max(sum(counts), seen) + open_, max(counts)"),
        ("if action in known and scope in known[action].counts_in:", "if False:"),
        (
            '            yield scope.held, f"{scope.key}: {scope.gap_ms',
            '            yield scope.held[1:], f"{scope.key}: {scope.gap_ms',
        ),
        ("if contacts.left(key, limit) <= 0:", "if contacts.left(key, limit) < 0:"),
        (
            "        if count >= placement.least.get(key, COUNTLESS):\n",
            "        if count > placement.least.get(key, COUNTLESS):\n",
        ),
        ("            allowance = min(contacts.left", "            allowance = max(contacts.left"),
        ("            if limit is not None:\n", "            if limit is None:\n"),
        (
            "        if allowance < min(slots, len(indices)):\n",
            "        if allowance + 1 < min(slots, len(indices)):\n",
        ),
        ("    if allowance >= min(slots, len(indices)):\n", "    if allowance >= min(slots, len(indices)) - 1:\n"),
        ("tuple(i for i in indices if free[i])", "tuple(indices)"),
    ),
    *_of(
        "decision/slate.py",
        RULES,
        ("                left[i] -= 1\n", "                left[i] -= 0\n"),
        ("                if left[i] <= 0:\n", "                if left[i] < 0:\n"),
        ("for member in limit.members if member not in limit.exempt]", "for member in limit.members]"),
        ("        open_[index] = False\n", ""),
        ("            if holdout == RANDOM:\n", "            if not holdout:\n"),
        ("1.0 / max(len(free), 1)", "1.0 / n"),
        ("        forced = [index for index in forced if open_[index]]\n", "        forced = []\n"),
    ),
    *_of(
        "decision/record.py",
        RULES,
        ("            delivery_ms = quiet_in_ms\n", "            pass\n"),
        ("position in quieted:  #", "position not in quieted:  #"),
    ),
    *_of(
        "catalog/plan.py",
        RULES,
        (
            "optional=np.flatnonzero(~mandatory),",
            "optional=np.flatnonzero(mandatory),",
        ),
        (
            "consenting=_where(a.action_class not in consent.exempt for",
            "consenting=_where(a.action_class not in contact.exempt for",
        ),
        (
            "quieted=_where(a.action_class not in contact.exempt for",
            "quieted=_where(a.action_class not in consent.exempt for",
        ),
        ("for owner in (self.rules.groups[action.group], action):\n", "for owner in (action,):\n"),
        ("Scope(action.name, action.limits, 0,", "Scope(action.name, action.limits[1:], 0,"),
        ("Scope(group_scope(group.name), group.limits, 0,", "Scope(group_scope(group.name), (), 0,"),
        ("members if name not in contact.exempt else held[:0],", "members,"),
        ("rule.limits, rule.gap_ms, everything, held)", "rule.limits, 0, everything, held)"),
        ("rule.limits, rule.gap_ms, everything, held)", "(), rule.gap_ms, everything, held)"),
        ("contact.overall.limits, contact.overall.gap_ms, everything", "contact.overall.limits, 0, everything"),
        ("contact.overall.limits, contact.overall.gap_ms, everything", "(), contact.overall.gap_ms, everything"),
        ("max(action.starts_ms, group.starts_ms), min(ends, default=0)", "action.starts_ms, min(ends, default=0)"),
        ("max(action.starts_ms, group.starts_ms), min(ends, default=0)", "max(action.starts_ms, group.starts_ms), 0"),
        ("        if group.per_slate:\n", "        if group.per_slate > 1:\n"),
        ("for names in (*catalog.contact.exclusive, *sorted", "for names in (*(), *sorted"),
        (
            "        if len(members) > 1:\n            yield members, 1",
            "        if len(members) > 2:\n            yield members, 1",
        ),
    ),
    *_of(
        "catalog/vocabulary.py",
        RULES,
        ('    if root not in ("customer", "request"):\n', '    if root not in ("customer", "request", "journey"):\n'),
    ),
    *_of(
        "catalog/rules.py",
        RULES,
        (
            "(action.name, group_scope(action.group), class_scope(action.action_class)),",
            "(action.name, group_scope(action.group)),",
        ),
        (
            "(action.name, group_scope(action.group), class_scope(action.action_class)),",
            "(action.name, class_scope(action.action_class)),",
        ),
    ),
    *_of(
        "catalog/rules.py",
        PAUSES,
        ("(action.name, action.pause or self.groups[action.group].pause),", "(action.name, action.pause),"),
        ("(group_scope(action.group), self.groups[action.group].pause_group),", ""),
        ("(class_scope(action.action_class), self.class_rule(action.action_class).pause),", ""),
        ("                        (OVERALL, self.contact.overall.pause),\n", ""),
        (
            "        return found if rule.pause is None else [*found, (channel_scope",
            "        return found if rule else [*found, (channel_scope",
        ),
    ),
    *_of(
        "experience/exposure.py",
        PAUSES,
        ("        insort(times, at_ms // 1000)\n", "        times = [*times, at_ms // 1000]\n"),
        ("            times.remove(at_s)\n", "            pass\n"),
        ("sorted(same)[:-most]", "sorted(same)[most:]"),
        ("most = CONTACTS if", "most = UNLIMITED if"),
        (
            '    """Count a proved exposure, and free its reservation."""\n    state.reserved.pop(key, None)\n',
            '    """Count a proved exposure, and free its reservation."""\n',
        ),
        ("((state.exposures, slot.action), (state.touches, channel))", "((state.exposures, slot.action),)"),
        ("((state.exposures, slot.action), (state.touches, channel))", "((state.touches, channel),)"),
        ("    at_s = slot.exposed_at_ms // 1000\n", "    at_s = slot.seen_at_ms // 1000\n"),
    ),
    *_of(
        "experience/fold.py",
        PAUSES,
        ("if reserved.until_ms <= now_ms]", "if reserved.until_ms <= now_ms + 60_000]"),
        ("if pause.until_ms <= now_ms]", "if pause.until_ms <= now_ms + 60_000]"),
        (
            "            reserve(state, key, Reservation(",
            "            reserve(state, entry.decision_id, Reservation(",
        ),
        (
            "            until_ms = entry.at_ms + slot.delivery_ms + slot.attention_ms\n",
            "            until_ms = entry.at_ms + 1000\n",
        ),
        ("        state.reserved.pop(key, None)\n    diagnosis =", "    diagnosis ="),
        (
            'if slot.outcome in ("declined", "dismissed", "ignored") and',
            'if slot.outcome in ("declined", "ignored") and',
        ),
        (
            "until_ms = slot.outcome_at_ms + length_ms if length_ms else 0",
            "until_ms = slot.outcome_at_ms + length_ms // 2",
        ),
        ('        _pause(state, scope, Pause(until_ms, slot.outcome or "", key))\n', ""),
        ("if each.source != pause.source]", "if True]"),
        ("key=lambda each: (-each.until_ms, each.source)", "key=lambda each: (each.until_ms, each.source)"),
        ("replace(kept[0], shorter=kept[1:PAUSES])", "replace(kept[0], shorter=[])"),
        ("    ignored = [each for each in before if each.source != key]\n", "    ignored = [*before]\n"),
        ('    if slot.outcome == "ignored":\n        insort(ignored', "    if slot.outcome:\n        insort(ignored"),
        ("policy.ignored_within_ms - policy.ignored_ms\n", "2 * policy.ignored_within_ms\n"),
        ("    last = policy.ignored_count - 1\n", "    last = policy.ignored_count\n"),
        ("if final.at_ms - first.at_ms <= policy.ignored_within_ms", "if True"),
        ("together[-1][1].at_ms + policy.ignored_ms if", "together[-1][0].at_ms + policy.ignored_ms if"),
        ('    _pause(state, scope, Pause(until_ms, "ignored", "unanswered"))\n', ""),
        ("for scope in [scope for scope in state.pauses if scope not in declared]:", "for scope in ():"),
        ("for scope in [scope for scope in state.unanswered if scope not in declared]:", "for scope in ():"),
    ),
    *_of(
        "decision/quiet_hours.py",
        QUIET,
        ("            if now_ms < end_ms:\n", "            if now_ms <= end_ms:\n"),
        ("                return begin_ms\n", "                return begin_ms + 60_000\n"),
        ("begin_ms <= spans[-1][1]", "begin_ms < spans[-1][1]"),
        ("max(spans[-1][1], end_ms)", "end_ms"),
        ("channel in each.channels or not each.channels", "channel in each.channels"),
        ("- 1) % 1440 + 1", ") % 1440"),
        ("each.days or range(7)", "range(7)"),
        ("(monday_ms - _WEEK_MS, monday_ms,", "(monday_ms,"),
        ("start_ms + offset_ms - _MONDAY_MS", "start_ms - _MONDAY_MS"),
        ("        offset_s = after_s\n", ""),
        ("_LOOK_DAYS = 16", "_LOOK_DAYS = 8"),
        ("isinstance(value, str) and known_zone(value)", "isinstance(value, str)"),
    ),
    *_of(
        "decision/facts.py",
        ("tests/property/test_personalise.py", *RULES),
        ("        values |= plan.impersonal\n", ""),
        ("        known = _NOBODY\n", ""),
        (
            "        zone = zone_of(values[catalog.time_zone_feature], catalog.time_zone)\n",
            "        zone = catalog.time_zone\n",
        ),
        ('    balance, asked, given = relationship["balance"],', "    balance, asked, given = 0.0,"),
    ),
    *_of(
        "experience/consent.py",
        CONSENT,
        ("    said = said_of(state, contact_purpose(channel))\n", "    said = state.consent.get(CONTACT)\n"),
        (
            "    said = said_of(state, contact_purpose(channel))\n",
            "    said = state.consent.get(contact_purpose(channel))\n",
        ),
        ('policy.channels.get(channel, policy.contact) == "opt_out"', 'policy.contact == "opt_out"'),
        ('policy.personalise == "opt_out" if said is None else said.granted', 'policy.personalise == "opt_out"'),
        ("(at_ms, known.granted) > (known.at_ms, granted)", "(at_ms, granted) > (known.at_ms, known.granted)"),
        ("(at_ms, known.granted) > (known.at_ms, granted)", "at_ms > 0"),
    ),
    *_of(
        "experience/consent.py",
        LEARNS,
        ('policy.learn == "opt_out" if said is None else said.granted', 'policy.learn == "opt_out"'),
        (
            "decision.learns = decision.learns and may_learn(state, policy)",
            "decision.learns = may_learn(state, policy)",
        ),
        ("decision.learns = decision.learns and may_learn(state, policy)", "pass"),
    ),
    *_of(
        "experience/journeys.py",
        JOURNEYS,
        ("times[step] = max(times.get(step, at_ms), at_ms)", "times[step] = at_ms"),
        ("turns[place] = max(turns[place], at_ms)", "turns[place] = at_ms"),
        ("turns[OPENED] > turns[RESOLVED]", "turns[OPENED] >= turns[RESOLVED] > 0"),
        ("now_ms - turns[OPENED] < concern.timeout_ms", "True"),
        ("            if not step.after or any(", "            if True or any("),
        ('if side == COMPANY or by == "customer":', "if True:"),
        ("[done[bisect_left(done, since_ms) :] for done", "[done for done"),
        ("return sorted({*mine, *more})[-DEEDS:]", "return sorted([*mine, *more])[-DEEDS:]"),
        ("return sorted({*mine, *more})[-DEEDS:]", "return sorted({*mine, *more})[:DEEDS]"),
        ("done_ms <= entered_ms + within_ms", "done_ms < entered_ms + within_ms"),
        ("            state.meetings.pop(key, None)", "            pass"),
        ("return bool(step.does or step.owes) and all(", "return all("),
        ("    for journey in rules.sided:\n", "    for journey in ():\n"),
        ("if step.owes and times is not None:", "if times is not None:"),
        ("for step in journey.steps if step.name == current)", "for step in journey.steps)"),
    ),
    *_of(
        "decision/choice.py",
        STAKES,
        ("freedom = (1.0 - placement.placement.stakes) * (1.0 - facts.stakes)", "freedom = 1.0 - facts.stakes"),
        ("* (1.0 + facts.stakes),", ","),
        ('state.last_touch if facts.personalised else ""', "state.last_touch"),
    ),
    *_of(
        "decision/facts.py",
        STAKES,
        ("journeys.stakes(known, rules)", "journeys.stakes(state, rules)"),
        ("if model is not None and personalised else", "if model is not None else"),
        ("        plan.layout.mark(x, cluster)\n", ""),
    ),
    *_of(
        "bandits/snapshot.py",
        CLUSTERS,
        ("if step.count >= TRACK_COUNT:", "if True:"),
        (
            "next_touch.setdefault((step.cluster, step.after), step.next)",
            "next_touch[step.cluster, step.after] = step.next",
        ),
        ("<= room:", "<= room + 9:"),
        (".argmin())", ".argmax())"),
    ),
    *_of(
        "bandits/clusters.py",
        CLUSTERS,
        ("        found[at < 0] = 0.0\n", ""),
        ("            if release < state.release:\n", "            if False:\n"),
        ("kmeans.learn_predict_one(x) if answer.first else kmeans.predict_one(x)", "kmeans.learn_predict_one(x)"),
        ("    different = np.unique(vectors, axis=0)\n", "    return vectors[:count]\n    different = vectors\n"),
        ("STARTS = 16", "STARTS = 1"),
    ),
    *_of(
        "bandits/tracks.py",
        CLUSTERS,
        ("if balance * self.size.at(now_ms) < self.balance.at(now_ms):", "if False:"),
        ("min(self.transitions, key=", "max(self.transitions, key="),
    ),
    *_of(
        "experience/holdout.py",
        HOLDOUT,
        ("    if at < policy.silent:\n", "    if at < policy.silent / 2:\n"),
        ("at >= 1.0 - policy.random", "at >= 1.0 - policy.random / 2"),
        ('    if state.holdout == "silent" and policy.silent > 0.0:\n', "    if False:\n"),
        ('    if state.holdout == "random" and policy.random > 0.0:\n', "    if False:\n"),
    ),
    *_of(
        "decision/degraded.py",
        DEGRADED,
        ("default.action in request.exclude or", ""),
        ("    if any(now_ms < starts_ms or", "    if any(False and now_ms < starts_ms or"),
        ('    if held_out == "silent" and not', '    if held_out == "random" and not'),
        ("position in placement.quieted and _quiet(plan, placement, now_ms)", "False"),
    ),
    *_of(
        "decision/budgets.py",
        BUDGETS,
        ("        if left < use.dearest:\n", "        if left < 0:\n"),
        ("np.flatnonzero(use.amounts > left)", "np.flatnonzero(use.amounts > left + 1)"),
        ("        if left is None or left >= use.dearest * slots:\n", "        if True:\n"),
        ("        allowance = sum(sum_ <= left", "        allowance = 1 + sum(sum_ <= left"),
    ),
    *_of(
        "decision/ledger.py",
        BUDGETS,
        ("            lease.spent += each.amount\n", "            pass\n"),
        ("                lease.spent -= each.amount\n", "                lease.spent -= 2 * each.amount\n"),
        ("0 if lease is None else lease.granted - lease.spent\n", "0 if lease is None else lease.granted\n"),
        ("return lease if lease.window.begins_ms <= now_ms < lease.ends_ms else None", "return lease"),
        ("await self._budgets.settle(window, name, sum(paid))", "await self._budgets.settle(window, name, 0)"),
    ),
]


_CONFTEST = """
from hypothesis import Phase, settings

# nobody reads these failures: no time is spent on making them small
settings.register_profile("mutated", phases=[Phase.explicit, Phase.generate], database=None, derandomize=True)
settings.load_profile("mutated")
"""


TESTS = tuple(dict.fromkeys(name for mutation in MUTATIONS for name in mutation.tests))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what the tests need; they are green there."""
    root = tmp_path_factory.mktemp("mutated")
    for name in ("nbx", "tests", "examples"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy2(ROOT / "pyproject.toml", root)
    (root / "conftest.py").write_text(_CONFTEST)
    done = _run(root, TESTS)
    if done.returncode:
        pytest.exit(f"the tests fail although nothing is broken:\n{done.stdout[-4000:]}", 1)
    return root


@pytest.mark.nightly
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda each: f"{each.path}-{each.text.strip()[:40]}")
def test_a_broken_rule_is_noticed(mutation: Mutation, copy: Path) -> None:
    path = copy / "nbx" / mutation.path
    original = path.read_text()
    path.write_text(broken_text(original, mutation))
    try:
        done = _run(copy, mutation.tests)
    finally:
        path.write_text(original)
    assert done.returncode != 0, f"nobody noticed {mutation.broken!r} in place of {mutation.text!r}"
    assert done.returncode == 1, f"the tests did not run:\n{done.stdout[-4000:]}"


def test_the_rules_stand_where_they_are_broken() -> None:
    """Every mutation still finds its text, once, and leaves Python behind."""
    assert len(MUTATIONS) >= 100
    for mutation in MUTATIONS:
        broken_text((ROOT / "nbx" / mutation.path).read_text(), mutation)


def broken_text(original: str, mutation: Mutation) -> str:
    """Return a module's text with its rule broken."""
    count = original.count(mutation.text)
    assert count == 1, f"nbx/{mutation.path} has {mutation.text!r} {count} times: break the rule as it stands there now"
    broken = original.replace(mutation.text, mutation.broken)
    compile(broken, mutation.path, "exec")
    return broken


def _run(root: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not nightly", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [*command, *dict.fromkeys(tests)],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
