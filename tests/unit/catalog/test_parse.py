from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from nbx import limits
from nbx.catalog.lint import lint_catalog
from nbx.catalog.model import (
    Action,
    Budget,
    Catalog,
    Concern,
    ConsentPolicy,
    ContactPolicy,
    ContactRule,
    ContextWeight,
    DefaultChoice,
    Example,
    Expect,
    Given,
    Goal,
    Group,
    Holdout,
    Journey,
    JourneyStep,
    Limit,
    Pause,
    QuietHours,
    Treatment,
)
from nbx.catalog.nodes import DEPTH, FINDINGS
from nbx.catalog.parse import CatalogFaults, Finding, parse_catalog
from nbx.catalog.scaling import scale_durations
from nbx.errors import SetupError
from nbx.features.schema import Aggregate, Encoding

EXAMPLE = (Path(__file__).parents[3] / "examples" / "retail_bank.yaml").read_text()
HEAD = """\
catalog: bank
features:
  age: {type: number, default: 42}
placements:
  hero: {channel: web, impressions: reported}
groups:
  cards: {}
actions:
"""
ACTION = "  {name}: {{group: cards, value: {value}, treatments: {{a: {{placements: [hero]}}}}}}\n"


def findings_of(text: str) -> tuple[Finding, ...]:
    with pytest.raises(CatalogFaults) as raised:
        parse_catalog(text)
    return raised.value.findings


def brief(text: str) -> list[str]:
    return [f"{each.line}:{each.column} {each.path} {each.code}" for each in findings_of(text)]


def action(fields: str) -> str:
    return f"{HEAD}  up:\n    group: cards\n    treatments: {{a: {{placements: [hero]}}}}\n{fields}"


def test_the_example_is_good_and_survives_json() -> None:
    catalog = parse_catalog(EXAMPLE)
    assert lint_catalog(catalog) == []
    assert msgspec.json.decode(msgspec.json.encode(catalog), type=Catalog) == catalog


def test_values_arrive_as_written() -> None:
    catalog = parse_catalog(EXAMPLE)
    features = {each.name: each for each in catalog.features}
    assert features["age"].encoding == Encoding(kind="standard", mean=42.0, sd=15.0)
    assert features["age"].max_age_ms == 365 * 86_400_000
    assert features["has_savings"].encoding.kind == "flag"
    assert features["is_mobile"].origin == "context"
    assert features["visits_7d"].origin == Aggregate(event="page_view", kind="count", window_ms=7 * 86_400_000)
    assert features["spend_30d"].origin == Aggregate(
        event="card_purchase", kind="sum", property="amount", window_ms=30 * 86_400_000
    )
    assert features["mood"].origin == Aggregate(
        event="call", kind="decayed_mean", property="sentiment", half_life_ms=7 * 86_400_000
    )
    assert features["hours_since_visit"].default == 720.0
    assert catalog.placements[0].default == DefaultChoice(action="security_checkup", treatment="hero")
    card = catalog.actions[0]
    assert card.limits == (Limit(max=2, per_ms=7 * 86_400_000),)
    assert card.pause == Pause(declined_ms=30 * 86_400_000, ignored_ms=7 * 86_400_000)
    assert card.attention_ms == 20 * 60_000
    assert catalog.experience.points == {"ignored": -0.5}


def test_json_is_read_like_yaml() -> None:
    text = json.dumps({"catalog": "bank", "features": {"a": {"type": "boolean"}}}, indent="\t")
    assert parse_catalog(text) == parse_catalog("catalog: bank\nfeatures: {a: {type: boolean}}")


@pytest.mark.parametrize(
    ("word", "ms"),
    [
        ("500ms", 500),
        ("30s", 30_000),
        ("15m", 900_000),
        ("12h", 43_200_000),
        ("7d", 604_800_000),
        ("2w", 1_209_600_000),
    ],
)
def test_durations(word: str, ms: int) -> None:
    assert parse_catalog(f"catalog: a\nattribution: {word}").attribution_ms == ms


@pytest.mark.parametrize("word", ["7", "7 d", "1.5h", "-1d", "0s", "3651d", "d", "[7d]", "99999999999999999999w", '""'])
def test_what_is_no_duration(word: str) -> None:
    assert [each.path for each in findings_of(f"catalog: a\nattribution: {word}")] == ["attribution"]


def test_a_hundred_faults_are_all_found_where_they_are() -> None:
    text = HEAD + "".join(ACTION.format(name=f"a{i}", value=-i) for i in range(1, 101))
    found = findings_of(text)
    assert [each.line for each in found] == list(range(9, 109))
    assert {each.column for each in found[:9]} == {29}
    assert str(found[2]) == "catalog.yaml:11:29 actions.a3.value: must be >= 0, found -3"


def test_faults_of_every_kind_in_one_run() -> None:
    text = """\
catalog: Bank
attribution: soon
features:
  balance: {type: number}
  city: {type: category}
  age: {type: numbr, default: .nan}
  tier: {type: category, encode: {onehot: [a, b, a]}}
  spend: {type: number, from: {event: buy, sum: amount}}
  last: {type: boolean, encode: {log: 3}}
  old: {type: number, from: context, max_age: 3d}
placements:
  hero: {channel: web, impressions: reported, slots: 11, default: {action: upp, treatment: a}}
groups:
  cards: {limits: [{max: 65, per: 7d}, {max: 1}]}
actions:
  none: {group: cads, treatments: {}}
  up:
    group: cards
    clas: service
    value: -3
    asks: [time]
    eligible: "customer.agee > 30 && customer.x"
    treatments:
      a: {placements: [hero, hera]}
      b: {placements: [hero]}
      a: {placements: []}
experience: {floor: 3, points: {accept: 1, declined: -1e15}}
"""
    assert brief(text) == [
        "1:10 catalog name",
        "2:14 attribution type",
        "4:3 features.balance reserved",
        "5:3 features.city.encode missing",
        "6:15 features.age.type type",
        "6:31 features.age.default not_finite",
        "7:50 features.tier.encode.onehot[2] duplicate",
        "8:25 features.spend.from.window missing",
        "9:25 features.last.encode encoding",
        "10:47 features.old.max_age max_age",
        "12:54 placements.hero.slots range",
        "12:76 placements.hero.default.action unknown_action",
        "14:26 groups.cards.limits[0].max range",
        "14:40 groups.cards.limits[1].per missing",
        "16:3 actions.none reserved",
        "16:17 actions.none.group unknown_group",
        "16:23 actions.none.treatments no_treatment",
        "19:5 actions.up.clas unknown_key",
        "20:12 actions.up.value range",
        "21:5 actions.up.asks asks_without_giving",
        "22:16 actions.up.eligible condition_name",
        "22:38 actions.up.eligible condition_name",
        "24:30 actions.up.treatments.a.placements[1] unknown_placement",
        "25:24 actions.up.treatments.b.placements[0] second_treatment",
        "26:7 actions.up.treatments.a duplicate_key",
        "27:21 experience.floor range",
        "27:33 experience.points.accept unknown_key",
        "27:54 experience.points.declined range",
    ]


@pytest.mark.parametrize(
    ("written", "line", "column"),
    [
        ("    eligible: customer.age > 3 && customer.b > 1\n", 12, 35),
        ("    eligible: 'request.channel.contains(\"it''s\") && customer.b > 1'\n", 12, 53),
        ('    eligible: "request.channel.contains(\\"\\u00e9\\") && customer.b > 1"\n', 12, 56),
        ("    eligible: >-\n      customer.age > 3\n        && customer.b > 1\n", 14, 12),
        ("    eligible: |\n      customer.age > 3\n      && customer.b > 1\n    # a note\n", 14, 10),
        ("    eligible: customer.age > 3\n      && customer.b > 1\n", 13, 10),
        ("    eligible: customer.age >\n", 12, 29),
        ("    eligible: |\n      customer.age >\n    # a note\n", 13, 21),
    ],
)
def test_faults_inside_a_condition_are_placed_in_every_yaml_style(written: str, line: int, column: int) -> None:
    [finding] = findings_of(action(written))
    assert (finding.path, finding.line, finding.column) == ("actions.up.eligible", line, column)


def test_unknown_words_get_a_suggestion() -> None:
    messages = [each.message for each in findings_of(action("    ownr: me\n").replace("[hero]", "[heroo]"))]
    assert messages == ["unknown placement `heroo`. Did you mean `hero`?", "unknown key. Did you mean `owner`?"]


@pytest.mark.parametrize(
    ("text", "place", "code"),
    [
        ("", "1:1", "empty"),
        ("# nothing\n", "1:1", "empty"),
        ("catalog: [1,\nb: }", "2:4", "yaml"),
        ("catalog: 'x", "1:12", "yaml"),
        ("catalog: a\n\tb: 1", "2:1", "yaml"),
        ("catalog: a\x07", "1:11", "yaml"),
        ("catalog: a\nb: \ud800", "2:4", "yaml"),
        ("catalog: a\n--- b", "2:1", "yaml"),
        ("- a", "1:1", "type"),
        ("%TAG !a! b\n--- a", "1:1", "tag"),
        ("catalog: a\n...\n%TAG !a! b\n--- b", "3:1", "tag"),
        ("catalog: " + "[" * 100_000, f"1:{10 + DEPTH}", "too_large"),
    ],
)
def test_text_that_is_no_catalog_is_one_finding_with_its_place(text: str, place: str, code: str) -> None:
    [finding] = findings_of(text)
    assert (f"{finding.line}:{finding.column}", finding.code) == (place, code)


def test_anchors_aliases_and_tags_are_refused_without_expanding_them() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 60))
    start = time.process_time()
    codes = [each.code for each in findings_of("catalog: a\n" + bomb)]
    assert time.process_time() - start < 1.0
    assert {"anchor", "alias"} <= set(codes)
    assert [each.code for each in findings_of("catalog: !!python/object:os.system a")] == ["tag"]


def test_a_file_beyond_the_bound_is_refused_before_it_is_read() -> None:
    start = time.process_time()
    [finding] = findings_of("catalog: a\n" + "a: 1\n" * (limits.CATALOG_BYTES // 5))
    assert time.process_time() - start < 0.2
    assert finding.code == "too_large"
    assert findings_of("é" * (limits.CATALOG_BYTES // 2 + 1))[0].code == "too_large"


def test_findings_are_bounded_and_the_rest_is_counted() -> None:
    text = HEAD + "".join(ACTION.format(name=f"a{i}", value=-1) for i in range(FINDINGS + 17))
    found = findings_of(text)
    assert len(found) == FINDINGS + 1
    assert found[-1].message == "and at least 17 more: put these right first"


def test_words_that_older_yaml_misreads_stay_words() -> None:
    text = "catalog: a\nfeatures: {c: {type: category, encode: {onehot: [no, on, 12:30, 1_0]}, default: yes}}"
    [feature] = parse_catalog(text).features
    assert feature.encoding.categories == ("no", "on", "12:30", "1_0")
    assert feature.default == "yes"


def test_content_passes_through_as_json_has_it() -> None:
    text = action("").replace("[hero]", "[hero], content: {a: [1, 2.5, true, null, 'x', no], b: {c: '1'}}")
    content = parse_catalog(text).actions[0].treatments[0].content
    assert content == {"a": [1, 2.5, True, None, "x", "no"], "b": {"c": "1"}}
    for bad in (".inf", "1e999", "9007199254740993", "123456789012345678901234567890"):
        found = findings_of(action("").replace("[hero]", f"[hero], content: {{a: {bad}}}"))
        assert [each.path for each in found] == ["actions.up.treatments.a.content.a"]


def test_five_hundred_actions_with_all_there_is_are_checked_within_a_second() -> None:
    head = """\
catalog: large
features:
  age: {type: number, default: 42}
  tier: {type: category, encode: {onehot: [basic, gold]}}
placements: {hero: {channel: web, impressions: reported}, side: {channel: web, impressions: reported}}
contact: {limits: [{max: 5, per: 7d}], channels: {web: {gap: 1h}}}
concerns: {payment: {opens: [failed]}}
groups:
"""
    group = """\
  g{i}: {{eligible: customer.age > 18.0, suitable: "!concern.payment", limits: [{{max: 4, per: 7d}}], per_slate: 2}}
"""
    action = """\
  a{i}:
    group: g{group}
    value: 60
    cost: 2.5
    gives: [cashback]
    asks: [time]
    eligible: customer.age > {i}.5 && customer.tier in ['basic', 'gold']
    applicable: relationship.balance > -{i}.25 && request.channel == 'web'
    suitable: relationship.strain < 0.{i}1
    context_weights: [{{when: customer.tier == 'gold' && customer.age < {i}.0, weight: 1.5}}]
    limits: [{{max: 2, per: 7d}}, {{max: 5, per: 60d}}]
    pause: {{declined: 30d, ignored: 7d}}
    owner: cards-team
    treatments:
      gold: {{placements: [hero], eligible: customer.tier == 'gold', content: {{headline: some words, cta: go}}}}
      hero: {{placements: [hero, side], content: {{headline: some words, body: some more words, cta: go}}}}
"""
    budget = "  b{i}: {{actions: [a{i}, a1{i}], groups: [g{i}], money: 1000, per: 1d}}\n"
    example = """\
  example {i}:
    given: {{placement: hero, customer: {{age: 30, tier: gold}}, relationship: {{balance: -2}}, seen: {{a1: [2h, 3d]}}}}
    expect: {{allowed: [a3], blocked: {{a1{i}: not_eligible}}, ranked: [[a2, a1]]}}
"""
    text = head + "".join(group.format(i=i) for i in range(20))
    text += "actions:\n" + "".join(action.format(i=i, group=i % 20) for i in range(500))
    text += "budgets:\n" + "".join(budget.format(i=i) for i in range(10))
    text += "examples:\n" + "".join(example.format(i=i) for i in range(50))
    start = time.process_time()
    catalog = parse_catalog(text)
    lint_catalog(catalog)
    spent_s = time.process_time() - start
    assert (len(catalog.actions), len(catalog.examples)) == (500, 50)
    assert spent_s < 4.0  # measured: 1.7 beside ten busy processes on two cores


def test_scaled_durations_keep_their_proportions() -> None:
    catalog = parse_catalog(EXAMPLE)
    fast = scale_durations(catalog, 10_080.0, least_attention_ms=2_000)
    assert fast.attribution_ms == 60_000
    assert fast.placements[0].delivery_ms == fast.placements[0].attention_ms == 2_000
    assert fast.placements[2].attention_ms == 4_286
    assert fast.actions[0].limits[0].per_ms == 60_000
    assert fast.actions[0].pause == Pause(declined_ms=257_143, ignored_ms=60_000)
    assert fast.actions[0].attention_ms == 2_000
    assert fast.actions[1].attention_ms == 0
    features = {each.name: each for each in fast.features}
    assert isinstance(features["visits_7d"].origin, Aggregate)
    assert features["visits_7d"].origin.window_ms == 60_000
    assert features["hours_since_visit"].default == pytest.approx(720 / 10_080)
    assert features["tenure_years"].encoding == catalog.features[2].encoding
    assert catalog == parse_catalog(EXAMPLE)


def placement(fields: str) -> str:
    return HEAD.replace("impressions: reported", f"impressions: reported, {fields}") + ACTION.format(name="up", value=1)


def test_goals_stakes_and_learned_values_arrive_as_written() -> None:
    catalog = parse_catalog(placement("stakes: 0.25, goal: {event: task_completed, within: 30m, value: 3.5}"))
    [hero] = catalog.placements
    assert hero.stakes == 0.25
    assert hero.goal == Goal(event="task_completed", within_ms=1_800_000, value=3.5)
    fast = scale_durations(catalog, 100.0, least_attention_ms=1).placements[0].goal
    assert fast == Goal(event="task_completed", within_ms=18_000, value=3.5)
    for written, value, strength in (("20", 20, 0), ("{prior: 20}", 20, 10), ("{prior: 0, strength: 2.5}", 0, 2.5)):
        [up] = parse_catalog(HEAD + ACTION.format(name="up", value=written)).actions
        assert (up.value, up.value_strength) == (value, strength)
    assert msgspec.json.decode(msgspec.json.encode(catalog), type=Catalog) == catalog
    for empty in ("", "~"):
        assert parse_catalog(placement(f"goal: {empty}")).placements[0].goal is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (placement("goal: {}"), ["5:47 goal.event missing", "5:47 goal.within missing", "5:47 goal.value missing"]),
        (placement("goal: came_back"), ["5:53 goal type"]),
        (placement("goal: [came_back]"), ["5:47 goal type"]),
        (placement("goal: {event: a, within: 0s, value: 1}"), ["5:72 goal.within range"]),
        (placement("goal: {event: a, within: 1h, value: 0}"), ["5:83 goal.value range"]),
        (placement("goal: {event: a, within: 1h, value: .nan}"), ["5:83 goal.value not_finite"]),
        (placement("goal: {event: ' ', within: 1h, value: 1}"), ["5:61 goal.event missing"]),
        (placement("goal: {event: a, within: 1h, value: 1, by: me}"), ["5:86 goal.by unknown_key"]),
        (placement("goal: {event: accepted, within: 1h, value: 1}"), ["5:61 goal.event goal_event"]),
        (placement("goal: {event: a, within: 8d, value: 1}"), ["5:72 goal.within goal_too_late"]),
        (placement("stakes: 1.1"), ["5:55 stakes range"]),
        (placement("stakes: -0.1"), ["5:55 stakes range"]),
        (placement("stakes: high"), ["5:55 stakes type"]),
    ],
)
def test_faults_of_goals_and_stakes_are_placed(text: str, found: list[str]) -> None:
    assert [each.replace("placements.hero.", "") for each in brief(text)] == found


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("{}", ["9:22 value.prior missing"]),
        ("{prior: -1}", ["9:37 value.prior range"]),
        ("{prior: 1, strength: 0}", ["9:50 value.strength range"]),
        ("{prior: 1, strenght: 3}", ["9:40 value.strenght unknown_key"]),
        ("[1]", ["9:22 value type"]),
        ("much", ["9:29 value type"]),
    ],
)
def test_faults_of_a_learned_value_are_placed(written: str, found: list[str]) -> None:
    text = HEAD + ACTION.format(name="up", value=written)
    assert [each.replace("actions.up.", "") for each in brief(text)] == found


def test_a_set_duration_never_becomes_unset() -> None:
    assert scale_durations(parse_catalog(EXAMPLE), 1e15, least_attention_ms=1).attribution_ms == 1


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan"), float("inf")])
def test_scaling_needs_a_positive_factor(factor: float) -> None:
    with pytest.raises(SetupError, match="factor"):
        scale_durations(Catalog(name="a"), factor, least_attention_ms=1)


DAY_MS = 86_400_000
TIME_ZONE = "time_zone: {feature: zone, otherwise: Europe/Berlin"
VOUCHERS = "vouchers: {actions: [gift], units: 1000, per: 1d"
FULL = """\
catalog: bank
time_zone: {feature: zone, otherwise: Europe/Berlin}
features:
  zone: {type: category, encode: none, personal: false}
  hour: {type: number, from: context, personal: true}
  age: {type: number}
  tier: {type: category, encode: {onehot: [basic, gold]}}
placements:
  hero: {channel: web, impressions: reported, slots: 3}
  desk: {channel: phone, impressions: implicit}
contact:
  limits: [{max: 5, per: 7d}]
  gap: 4h
  pause: {ignored: {after: 5, within: 7d, for: 3d}, declined: 1d}
  channels: {phone: {limits: [{max: 1, per: 1d}], gap: 1d, pause: {dismissed: 2d}}}
  classes: {promotional: {limits: [{max: 3, per: 7d}], gap: 1d}}
  quiet_hours:
    - {from: "21:00", to: 08:00, channels: [phone, web], days: [tue, mon]}
    - {from: 00:00, to: "24:00"}
  exempt: [mandatory, service]
  exclusive: [[up, gift], [up, tips, gift]]
consent: {contact: opt_in, channels: {phone: opt_out}, personalise: opt_in, learn: opt_in, exempt: []}
budgets:
  vouchers: {actions: [gift], units: 1000, per: 1d}
  gifts: {groups: [cards], money: 5000.25, per: 30d, starts: 2026-11-01}
holdout: {silent: 0.05, random: 0.02}
journeys:
  onboarding: {steps: {opened: {event: account_opened}, funded: {event: deposit, after: [opened]}}}
concerns:
  payment: {opens: [payment_failed], resolves: [payment_ok], timeout: 14d}
  other: {opens: [lost]}
groups:
  cards:
    pause_group: {declined: 3d}
    per_slate: 1
    lever: 1.5
    eligible: customer.age >= 18.0
    applicable: journey.onboarding == 'funded'
    suitable: "!concern.payment"
    starts: 2026-12-01
    ends: 2026-12-24T18:00
    context_weights: [{when: "customer.tier == 'gold'", weight: 1.5}]
actions:
  up:
    group: cards
    applicable: relationship.balance > -5.0
    suitable: customer.age < 90.0
    starts: 2026-12-01T00:00Z
    not_with: [tips]
    cost: 25.5
    lever: 0
    context_weights: [{when: concern.payment, weight: 2}]
    treatments:
      gold: {placements: [hero], eligible: customer.tier == 'gold', ends: 2026-12-24 18:00:30+02:00}
      any: {placements: [hero]}
  gift: {group: cards, cost: 1, treatments: {a: {placements: [hero, desk]}}}
  tips: {group: cards, class: service, cost: 1, treatments: {a: {placements: [hero]}}}
examples:
  "gold: customers are not told. [sic]":
    given:
      placement: hero
      slots: 2
      customer: {tier: gold, age: 30}
      request: {hour: 7.5}
      relationship: {balance: -3}
      journey: {onboarding: funded}
      concern: {payment: true}
      seen: {up: [2h, 3d]}
      paused: [gift]
      consent: {"contact:phone": false, learn: true}
      spent: [gifts]
      holdout: silent
      at: 2026-03-29T02:30
    expect: {allowed: [tips], blocked: {up: not_eligible, gift: any}, ranked: [[tips, up]]}
"""


def test_everything_that_bounds_arrives_as_written() -> None:
    text = FULL.replace("ranked: [[tips, up]]", "ranked: []")
    catalog = parse_catalog(text)
    assert (catalog.time_zone, catalog.time_zone_feature) == ("Europe/Berlin", "zone")
    assert [each.personal for each in catalog.features] == [False, True, None, None]
    week, day = Limit(max=5, per_ms=7 * DAY_MS), Limit(max=1, per_ms=DAY_MS)
    ignored = Pause(declined_ms=DAY_MS, ignored_ms=3 * DAY_MS, ignored_count=5, ignored_within_ms=7 * DAY_MS)
    assert catalog.contact == ContactPolicy(
        overall=ContactRule(limits=(week,), gap_ms=4 * 3_600_000, pause=ignored),
        channels={"phone": ContactRule(limits=(day,), gap_ms=DAY_MS, pause=Pause(dismissed_ms=2 * DAY_MS))},
        classes={"promotional": ContactRule(limits=(replace(week, max=3),), gap_ms=DAY_MS)},
        quiet_hours=(
            QuietHours(from_minute=21 * 60, to_minute=8 * 60, days=(0, 1), channels=("phone", "web")),
            QuietHours(from_minute=0, to_minute=0),
        ),
        exempt=("mandatory", "service"),
        exclusive=(("up", "gift"), ("up", "tips", "gift")),
    )
    assert catalog.consent == ConsentPolicy(
        contact="opt_in", channels={"phone": "opt_out"}, personalise="opt_in", learn="opt_in", exempt=()
    )
    midnight = ms("2026-11-01T00:00+01:00")
    assert catalog.budgets == (
        Budget(name="vouchers", actions=("gift",), units=1000, per_ms=DAY_MS),
        Budget(name="gifts", groups=("cards",), money=5000.25, per_ms=30 * DAY_MS, starts_ms=midnight),
    )
    assert catalog.holdout == Holdout(silent=0.05, random=0.02)
    opened = JourneyStep(name="opened", event="account_opened")
    funded = JourneyStep(name="funded", event="deposit", after=("opened",))
    assert catalog.journeys == (Journey(name="onboarding", steps=(opened, funded)),)
    assert catalog.concerns == (
        Concern(name="payment", opens=("payment_failed",), resolves=("payment_ok",), timeout_ms=14 * DAY_MS),
        Concern(name="other", opens=("lost",)),
    )
    assert catalog.groups == (
        Group(
            name="cards",
            pause_group=Pause(declined_ms=3 * DAY_MS),
            per_slate=1,
            lever=1.5,
            context_weights=(ContextWeight(when="customer.tier == 'gold'", weight=1.5),),
            eligible="customer.age >= 18.0",
            applicable="journey.onboarding == 'funded'",
            suitable="!concern.payment",
            starts_ms=ms("2026-12-01T00:00+01:00"),
            ends_ms=ms("2026-12-24T18:00+01:00"),
        ),
    )
    assert catalog.actions[0] == Action(
        name="up",
        group="cards",
        applicable="relationship.balance > -5.0",
        suitable="customer.age < 90.0",
        starts_ms=ms("2026-12-01T00:00+00:00"),
        not_with=("tips",),
        cost=25.5,
        lever=0.0,
        context_weights=(ContextWeight(when="concern.payment", weight=2.0),),
        treatments=(
            Treatment(
                name="gold",
                placements=("hero",),
                eligible="customer.tier == 'gold'",
                ends_ms=ms("2026-12-24T18:00:30+02:00"),
            ),
            Treatment(name="any", placements=("hero",)),
        ),
    )
    assert catalog.examples == (
        Example(
            name="gold: customers are not told. [sic]",
            given=Given(
                placement="hero",
                slots=2,
                customer={"tier": "gold", "age": 30.0},
                request={"hour": 7.5},
                relationship={"balance": -3.0},
                journey={"onboarding": "funded"},
                concern={"payment": True},
                seen={"up": (2 * 3_600_000, 3 * DAY_MS)},
                paused=("gift",),
                consent={"contact:phone": False, "learn": True},
                spent=("gifts",),
                holdout="silent",
                at_ms=ms("2026-03-29T01:30+00:00"),
            ),
            expect=Expect(allowed=("tips",), blocked={"up": "not_eligible", "gift": ""}),
        ),
    )
    assert msgspec.json.decode(msgspec.json.encode(catalog), type=Catalog) == catalog


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1000)


def test_what_is_not_said_keeps_its_default() -> None:
    assert parse_catalog("catalog: bank") == Catalog(name="bank")
    assert parse_catalog("{catalog: bank, contact: {}, consent: {}, holdout: {}, budgets: {}}") == Catalog(name="bank")
    [up] = parse_catalog(action("")).actions
    plain = Action(name="up", group="cards", treatments=(Treatment(name="a", placements=("hero",)),))
    assert up == plain


@pytest.mark.parametrize(
    ("zone", "written", "exact"),
    [
        ("Europe/Berlin", "2026-07-01", "2026-07-01T00:00+02:00"),
        ("Europe/Berlin", "2026-03-29T02:30", "2026-03-29T03:30+02:00"),  # skipped: as much later
        ("Europe/Berlin", "2026-10-25T02:30", "2026-10-25T02:30+02:00"),  # twice: the first
        ("Europe/Berlin", "2026-10-25T02:30:15+01:00", "2026-10-25T02:30:15+01:00"),
        ("Africa/Cairo", "2026-04-24", "2026-04-24T01:00+03:00"),  # midnight is skipped
        ("Australia/Lord_Howe", "2026-10-04T02:15", "2026-10-04T02:45+11:00"),
        ("UTC", "2028-02-29", "2028-02-29T00:00+00:00"),
        ("America/New_York", "2026-12-24T18:00Z", "2026-12-24T18:00+00:00"),
    ],
)
def test_dates_are_local_and_clocks_that_change_are_no_riddle(zone: str, written: str, exact: str) -> None:
    [up] = parse_catalog(f"time_zone: {zone}\n{action(f'    starts: {written}')}").actions
    assert up.starts_ms == ms(exact)


@pytest.mark.parametrize(
    "written",
    ["soon", "2026", "2026-13-01", "2027-02-29", "26-01-01", "2026-01-01T", "2026-01-01T24:00", "2026-01-01T10:00+1",
     "2026-W01-1", "20260101", "1999-12-31", "2200-01-01", "0001-01-01T00:00+14:00", "[2026-01-01]", "1767225600"],
)  # fmt: skip
def test_what_is_no_date(written: str) -> None:
    assert [each.path for each in findings_of(action(f"    ends: {written}\n"))] == ["actions.up.ends"]


@pytest.mark.parametrize(
    ("zone", "hint"),
    [("Berlin", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("new york", "America/New_York"),
     ("../../etc/passwd", ""), ("localtime", ""), ("CEST", None), ("''", None), ("[UTC]", "")],
)  # fmt: skip
def test_zones_are_those_that_every_machine_knows(zone: str, hint: str | None) -> None:
    [finding] = findings_of(f"catalog: a\ntime_zone: {zone}")
    assert (finding.path, finding.code) == ("time_zone", "type")
    assert hint is None or (f"Did you mean `{hint}`" in finding.message) == bool(hint)


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (TIME_ZONE, "¶time_zone: {feature: zone", "time_zone.otherwise missing"),
        ("personal: false", "personal: ¶maybe", "features.zone.personal type"),
        ("after: 5, within: 7d", "after: ¶0, within: 7d", "contact.pause.ignored.after range"),
        ("after: 5, within: 7d", "after: ¶65, within: 7d", "contact.pause.ignored.after range"),
        ("ignored: {after: 5, within: 7d", "¶ignored: {after: 5", "contact.pause.ignored.within missing"),
        ("gap: 4h", "gap: ¶4", "contact.gap type"),
        ("{phone: {limits", "{¶fone: {limits", "contact.channels.fone unknown_channel"),
        ("{promotional: {limits", "{¶promotion: {limits", "contact.classes.promotion unknown_key"),
        ('from: "21:00"', "from: ¶21", "contact.quiet_hours[0].from type"),
        ('from: "21:00"', "from: ¶'24:00'", "contact.quiet_hours[0].from type"),
        ('to: "24:00"', "to: ¶'24:01'", "contact.quiet_hours[1].to type"),
        ('{from: 00:00, to: "24:00"', "¶{from: 00:00", "contact.quiet_hours[1].to missing"),
        ("days: [tue, mon]", "days: [tue, ¶monday]", "contact.quiet_hours[0].days[1] type"),
        ("days: [tue, mon]", "days: [tue, ¶tue]", "contact.quiet_hours[0].days[1] duplicate"),
        ("days: [tue, mon]", "¶days: []", "contact.quiet_hours[0].days missing"),
        ("exempt: [mandatory, service]", "exempt: [¶all]", "contact.exempt[0] type"),
        ("[[up, gift],", "[[up, ¶up, gift],", "contact.exclusive[0][1] duplicate"),
        ("contact: opt_in", "contact: ¶true", "consent.contact type"),
        ("units: 1000", "units: ¶0", "budgets.vouchers.units range"),
        ("units: 1000", "units: ¶1.5", "budgets.vouchers.units range"),
        ("units: 1000", "units: ¶1000000000001", "budgets.vouchers.units range"),
        (VOUCHERS, "¶vouchers: {actions: [gift]", "budgets.vouchers no_bound"),
        (VOUCHERS, "¶vouchers: {actions: [gift]", "budgets.vouchers.per missing"),
        ("5000.25", "¶0", "budgets.gifts.money range"),
        ("5000.25", "¶-1", "budgets.gifts.money range"),
        ("5000.25", "¶5000.12345", "budgets.gifts.money range"),
        ("5000.25", "¶100000000000.1", "budgets.gifts.money range"),
        ("holdout: {silent: 0.05, random: 0.02", "¶holdout: {silent: 0.05, random: 0.951", "holdout range"),
        ("silent: 0.05", "silent: ¶5", "holdout.silent range"),
        ("after: [opened]", "after: [¶open]", "journeys.onboarding.steps.funded.after[0] unknown_step"),
        ("event: deposit", "event: ¶''", "journeys.onboarding.steps.funded.event missing"),
        ("opens: [lost]", "¶opens: []", "concerns.other.opens missing"),
        ("other: {opens: [lost]", "¶other: {resolves: [lost]", "concerns.other.opens missing"),
        ("timeout: 14d", "timeout: ¶0d", "concerns.payment.timeout range"),
        ("per_slate: 1", "per_slate: ¶0", "groups.cards.per_slate range"),
        ("lever: 1.5", "lever: ¶-1", "groups.cards.lever range"),
        ("lever: 1.5", "lever: ¶1001", "groups.cards.lever range"),
        ("weight: 1.5", "weight: ¶0", "groups.cards.context_weights[0].weight range"),
        ("weight: 1.5", "weight: ¶1001", "groups.cards.context_weights[0].weight range"),
        ("[{when: concern.payment, weight: 2}", "[¶{weight: 2}", "actions.up.context_weights[0].when missing"),
        ("{when: concern.payment,", "{when: ¶'',", "actions.up.context_weights[0].when missing"),
        ("cost: 25.5", "cost: ¶-1", "actions.up.cost range"),
        ("cost: 25.5", "cost: ¶25.00001", "actions.up.cost range"),
        ("not_with: [tips]", "not_with: [¶tip]", "actions.up.not_with[0] unknown_action"),
        ("applicable: journey.onboarding", "applicable: ¶journey.boarding", "groups.cards.applicable condition_name"),
        ("!concern.payment", "!¶concern.pay", "groups.cards.suitable condition_name"),
        ('when: "customer.tier', 'when: "¶customer.teer', "groups.cards.context_weights[0].when condition_name"),
        ("concern.payment, w", "¶concern.pay, w", "actions.up.context_weights[0].when condition_name"),
        ("eligible: customer.tier", "eligible: ¶customer.t", "actions.up.treatments.gold.eligible condition_name"),
        ("hour: 7.5", "hour: ¶seven", "EXAMPLE.given.request.hour type"),
        ("tier: gold, age", "tier: ¶gould, age", "EXAMPLE.given.customer.tier unknown_category"),
        ("given:\n      placement: hero\n", "¶given:\n", "EXAMPLE.given.placement missing"),
        ("balance: -3", "balance: ¶low", "EXAMPLE.given.relationship.balance type"),
        ("seen: {up: [2h, 3d]}", "seen: {up: [2h, ¶3]}", "EXAMPLE.given.seen.up[1] type"),
        ('"contact:phone": false', '"contact:fax": ¶false', "EXAMPLE.given.consent.'contact:fax' unknown_channel"),
        ("holdout: silent", "holdout: ¶quiet", "EXAMPLE.given.holdout type"),
        ("at: 2026-03-29T02:30", "at: ¶02:30", "EXAMPLE.given.at type"),
        ("up: not_eligible", "up: ¶ineligible", "EXAMPLE.expect.blocked.up unknown_reason"),
        ("expect: {", "¶expects: {", "EXAMPLE.expects unknown_key"),
    ],
)
def test_faults_of_what_bounds_are_placed(old: str, new: str, found: str) -> None:
    """The sign ¶ stands where the finding must point to."""
    text = FULL.replace(", ranked: [[tips, up]]", "")
    assert text.count(old) == 1
    marked = text.replace(old, new)
    before = marked[: marked.index("¶")]
    place = f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"
    name = "examples.'gold: customers are not told. [sic]'"
    assert f"{place} {found}" in [each.replace(name, "EXAMPLE") for each in brief(marked.replace("¶", ""))]


def test_a_condition_used_often_is_reported_wherever_it_stands() -> None:
    lines = "".join(f"    {layer}: customer.ages > 1\n" for layer in ("eligible", "applicable", "suitable"))
    found = brief(action(lines + "    context_weights: [{when: customer.ages > 1, weight: 2}]\n"))
    assert [each.removesuffix(" condition_name") for each in found] == [
        "12:15 actions.up.eligible",
        "13:17 actions.up.applicable",
        "14:15 actions.up.suitable",
        "15:30 actions.up.context_weights[0].when",
    ]


def test_every_new_duration_is_scaled_and_dates_are_not() -> None:
    catalog = parse_catalog(FULL.replace(", ranked: [[tips, up]]", ""))
    fast = scale_durations(catalog, 1000.0, least_attention_ms=1)
    assert fast.contact == replace(
        catalog.contact,
        overall=ContactRule(
            limits=(Limit(max=5, per_ms=604_800),),
            gap_ms=14_400,
            pause=Pause(declined_ms=86_400, ignored_ms=259_200, ignored_count=5, ignored_within_ms=604_800),
        ),
        channels={
            "phone": ContactRule(
                limits=(Limit(max=1, per_ms=86_400),), gap_ms=86_400, pause=Pause(dismissed_ms=172_800)
            )
        },
        classes={"promotional": ContactRule(limits=(Limit(max=3, per_ms=604_800),), gap_ms=86_400)},
    )
    assert [each.per_ms for each in fast.budgets] == [86_400, 2_592_000]
    assert fast.budgets[1].starts_ms == catalog.budgets[1].starts_ms
    assert [each.timeout_ms for each in fast.concerns] == [1_209_600, 2_592_000]
    assert fast.groups == (replace(catalog.groups[0], pause_group=Pause(declined_ms=259_200)),)
    assert fast.actions == catalog.actions
    assert fast.examples == ()
    assert (fast.holdout, fast.consent, fast.journeys) == (catalog.holdout, catalog.consent, catalog.journeys)


EVERY_MAPPING = """\
catalog: a
x9: 1
time_zone: {x9: 1}
features:
  f: {x9: 1, type: category, from: {x9: 1}, encode: {x9: 1}}
  g: {type: number, encode: {standard: {x9: 1}}}
placements: {p: {x9: 1, default: {x9: 1}, goal: {x9: 1}}}
groups: {g: {x9: 1, limits: [{x9: 1}], pause: {x9: 1, ignored: {x9: 1}}, context_weights: [{x9: 1}]}}
actions: {a: {x9: 1, value: {x9: 1}, treatments: {t: {x9: 1}}}}
journeys: {j: {x9: 1, steps: {s: {x9: 1}}}}
concerns: {c: {x9: 1}}
contact: {x9: 1, channels: {web: {x9: 1}}, classes: {x9: {}}, quiet_hours: [{x9: 1}]}
consent: {x9: 1}
budgets: {b: {x9: 1}}
holdout: {x9: 1}
experience: {x9: 1, points: {x9: 1}}
exploration: {x9: 1}
examples: {e: {x9: 1, given: {x9: 1}, expect: {x9: 1}}}
"""


def test_the_reference_page_has_every_key() -> None:
    messages = [each.message for each in findings_of(EVERY_MAPPING) if each.path.endswith(".x9") or each.path == "x9"]
    assert len(messages) == EVERY_MAPPING.count("x9") == sum("There are" in each for each in messages)
    keys = {key for message in messages for key in message.partition(" There are ")[2].split(", ")}
    page = (Path(__file__).parents[3] / "docs" / "catalog.md").read_text()
    code = set(re.findall("[a-z_0-9]+", " ".join(re.findall("`+[^`]+`+", page))))
    assert keys - code == set()
    assert {"not_with", "pause_group", "within", "resolves", "holdout"} <= keys


def many(line: str, count: int) -> str:
    return "".join(f"  {line.format(i=i)}\n" for i in range(count))


@pytest.mark.parametrize(
    ("head", "entry", "most", "path"),
    [
        ("features:\n", "f{i}: {{type: number, encode: none}}", 10_000, "features"),
        ("journeys:\n", "j{i}: {{steps: {{a: {{event: e}}}}}}", 32, "journeys"),
        ("journeys: {j: {steps: {\n", "s{i}: {{event: e}},", 32, "journeys.j.steps"),
        ("concerns:\n", "c{i}: {{opens: [e]}}", 32, "concerns"),
        ("examples:\n", "e{i}: {{given: {{placement: hero}}, expect: {{silent: true}}}}", 1000, "examples"),
        ("budgets:\n", "b{i}: {{groups: [cards], units: 1, per: 1d}}", 100, "budgets"),
        ("contact: {quiet_hours: [\n", "{{from: 0{i}:00, to: 10:00}},", 64, "contact.quiet_hours"),
        ("contact: {exclusive: [\n", "[up, up{i}],", 256, "contact.exclusive"),
        ("contact: {limits: [\n", "{{max: 1, per: 1{i}s}},", 16, "contact.limits"),
        ("contact: {exclusive: [[\n", "a{i},", 10_000, "contact.exclusive[0]"),
        ("groups: {cards: {context_weights: [\n", "{{when: 'true', weight: 2}},", 16, "groups.cards.context_weights"),
        ("examples: {e: {given: {placement: hero, seen: {up: [\n", "{i}s,", 64,
         "examples.e.given.seen.up"),
    ],
)  # fmt: skip
def test_lists_and_sections_are_bounded(head: str, entry: str, most: int, path: str) -> None:
    ends = "".join({"{": "}", "[": "]"}[sign] for sign in reversed(head) if sign in "{[")
    for count, found in ((most, False), (most + 1, True)):
        text = f"catalog: a\n{head}{many(entry, count)}{ends}"
        try:
            parse_catalog(text)
            codes: list[str] = []
        except CatalogFaults as faults:
            codes = [each.code for each in faults.findings if each.path == path]
        assert ("too_many" in codes) == found


def test_text_and_names_have_bounds() -> None:
    for field, most, code in (("owner", 1024, "too_long"), ("eligible", 2048, "too_long"), ("topic", 64, "name")):
        found = [each.code for each in findings_of(action(f"    {field}: {'a' * (most + 1)}\n"))]
        assert found == [code]
    assert parse_catalog(action(f"    owner: {'a' * 1024}\n    topic: {'a' * 64}\n")).actions[0].topic == "a" * 64
    example = "given: {placement: hero}, expect: {silent: true}"
    assert len(parse_catalog(f"{action('')}examples: {{'{'a b' * 66}': {{{example}}}}}").examples) == 1
    for name, code in (("a b" * 67, "too_long"), (" ", "missing")):
        assert [each.code for each in findings_of(f"{action('')}examples: {{'{name}': {{{example}}}}}")] == [code]


def test_conditions_are_bounded_all_together() -> None:
    def with_conditions(count: int) -> str:
        entry = "c{i}: {{suitable: \"'" + "a" * 1988 + "{i:04d}' != customer.city\"}}"
        return f"catalog: a\nfeatures: {{city: {{type: category, encode: none}}}}\ngroups:\n{many(entry, count)}"

    assert len(parse_catalog(with_conditions(149)).groups) == 149
    assert [each.code for each in findings_of(with_conditions(150))] == ["too_large"]


def test_a_condition_written_with_endless_space_is_still_placed() -> None:
    written = f"    eligible: 'true{' ' * 1_000_000}\n      && x'\n    suitable: 'true\n      && y'\n"
    assert [f"{each.line}:{each.column}" for each in findings_of(action(written))] == ["12:15", "14:15"]


def test_what_a_fault_entails_is_not_told() -> None:
    """The age of a context value is one fault, though `soon` would be another anywhere else."""
    text = "catalog: a\nfeatures: {a: {type: number, from: context, max_age: soon}}"
    assert [each.code for each in findings_of(text)] == ["max_age"]
