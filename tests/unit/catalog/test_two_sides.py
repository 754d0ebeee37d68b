"""Steps with two sides, clusters and segments in a catalog file: what is read, refused, warned of and told."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from nbx import limits
from nbx.catalog.diff import diff
from nbx.catalog.faults import catalog_faults
from nbx.catalog.lint import lint_catalog
from nbx.catalog.model import Catalog, Clusters, Journey, JourneyStep
from nbx.catalog.parse import CatalogFaults, parse_catalog
from nbx.catalog.plan import Plan

TEXT = """catalog: sides
features:
  tier: {type: category, encode: {onehot: [basic, gold]}, controllable: true}
  spend: {type: number, from: {event: buy, sum: amount, window: 30d}}
  note: {type: category, encode: none}
  on_mobile: {type: boolean, from: context}
placements: {web: {channel: web, impressions: reported}}
groups: {g: {}}
actions:
  a: {group: g, value: 1, suitable: relationship.cluster >= 0, treatments: {t: {placements: [web]}}}
journeys:
  start:
    steps:
      opened:
        event: open
        does: {events: [deposit, card_used], within: 14d}
        owes: {events: [card_sent], within: 3d}
        stakes: 0.5
      funded: {event: deposit, after: [opened], does: [salary]}
clusters: {features: [tier, spend], count: 3, track_weight: 1.5}
segments: [tier, note]
"""
DAY_MS = 86_400_000
OPENED = JourneyStep(
    name="opened",
    event="open",
    does=("deposit", "card_used"),
    does_within_ms=14 * DAY_MS,
    owes=("card_sent",),
    owes_within_ms=3 * DAY_MS,
    stakes=0.5,
)


def test_everything_is_read() -> None:
    catalog = parse_catalog(TEXT)
    funded = JourneyStep(name="funded", event="deposit", after=("opened",), does=("salary",))
    assert catalog.journeys == (Journey(name="start", steps=(OPENED, funded)),)
    assert catalog.clusters == Clusters(features=("tier", "spend"), count=3, track_weight=1.5)
    assert catalog.segments == ("tier", "note")
    assert [feature.name for feature in catalog.features if feature.controllable] == ["tier"]
    columns = Plan(catalog, 1).layout.columns
    assert columns[-4:] == ("relationship.minutes_since_prompt", "cluster=0", "cluster=1", "cluster=2")
    plain = parse_catalog("catalog: plain")
    assert (plain.clusters, plain.segments) == (None, ())
    assert parse_catalog(TEXT.replace(", count: 3, track_weight: 1.5", "")).clusters == Clusters(
        features=("tier", "spend")
    )


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("owes: {events: [card_sent], within: 3d}", "¶owes: [card_sent]", "journeys.start.steps.opened.owes missing"),
        ("owes: {events: [card_sent], within: 3d}", "¶owes: {events: [card_sent]}", "opened.owes.within missing"),
        ("within: 14d", "within: ¶soon", "opened.does.within type"),
        ("does: {events: [deposit, card_used], within: 14d}", "¶does: {within: 14d}", "opened.does.events missing"),
        ("does: [salary]", "¶does: []", "funded.does missing"),
        ("does: [salary]", "does: [¶'']", "funded.does[0] missing"),
        ("does: [salary]", "¶does: [consent]", "funded.does reserved_event"),
        ("does: [salary]", "¶does: [deposit]", "funded.does enters_itself"),
        ("[card_sent]", "[card_used]", "opened.owes both_sides"),
        ("stakes: 0.5", "stakes: ¶1.5", "opened.stakes range"),
        ("count: 3", "count: ¶1", "clusters.count range"),
        ("count: 3", "count: ¶17", "clusters.count range"),
        ("track_weight: 1.5", "track_weight: ¶0", "clusters.track_weight range"),
        ("features: [tier, spend]", "features: [tier, ¶spent]", "clusters.features[1] unknown_feature"),
        ("features: [tier, spend]", "features: [¶note]", "clusters.features[0] not_encoded"),
        ("features: [tier, spend], count", "count", "clusters.features missing"),
        ("segments: [tier, note]", "segments: [¶tears]", "segments[0] unknown_feature"),
        ("segments: [tier, note]", "segments: [¶spend]", "segments[0] segment"),
        ("segments: [tier, note]", "segments: [¶on_mobile]", "segments[0] segment"),
        ("segments: [tier, note]", "¶segments: [a, b, c, d, e, f, g, h, i]", "segments too_many"),
        ("from: context", "from: context, controllable: ¶true", "features.on_mobile.controllable controllable"),
        ("spend: {type", "¶cluster: {type", "features.cluster reserved"),
        ("clusters: {features: [tier, spend], count: 3, track_weight: 1.5}", "", "actions.a.suitable condition_name"),
        ("relationship.cluster >= 0", "¶relationship.cluster > 3", "actions.a.suitable condition_value"),
    ],
)
def test_each_fault_is_found_with_its_place(old: str, new: str, fault: str) -> None:
    assert TEXT.count(old) >= 1
    marked = TEXT.replace(old, new, 1)
    with pytest.raises(CatalogFaults) as caught:
        parse_catalog(marked.replace("¶", ""))
    first = caught.value.findings[0]
    assert f"{first.path} {first.code}".endswith(fault), caught.value.findings
    if "¶" in new:
        assert first.line == marked[: marked.index("¶")].count("\n") + 1


def test_what_is_owed_has_a_time_also_in_a_catalog_that_was_no_file() -> None:
    endless = replace(OPENED, owes_within_ms=0)
    faults = catalog_faults(Catalog(name="c", journeys=(Journey(name="j", steps=(endless,)),)))
    assert [f"{each.path} {each.code}" for each in faults] == ["journeys.j.steps.opened.owes.within missing"]


def test_clusters_count_towards_the_width_of_x() -> None:
    def text(buckets: int) -> str:
        return f"""
catalog: wide
features: {{city: {{type: category, encode: {{hash: {buckets}}}}}}}
clusters: {{features: [city], count: 2}}
"""

    room = limits.FEATURE_WIDTH - 5 - 2
    assert len(Plan(parse_catalog(text(room)), 1).layout.columns) == limits.FEATURE_WIDTH
    with pytest.raises(CatalogFaults, match="x must have at most"):
        parse_catalog(text(room + 1))


def test_what_is_of_use_without_a_condition_is_not_called_unused() -> None:
    unused = [each.path for each in lint_catalog(parse_catalog(TEXT)) if each.code == "unused"]
    assert unused == []
    bare = TEXT.replace("segments: [tier, note]", "").replace(", does: [salary]", "")
    first, rest = bare.split("        does:", 1)
    bare = first + rest[rest.index("      funded") :]
    unused = [each.path for each in lint_catalog(parse_catalog(bare)) if each.code == "unused"]
    assert unused == ["features.note", "journeys.start"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("within: 3d", "within: 1d", "journey start, step opened: the company's time 3 days → 1 day"),
        ("within: 14d", "within: 7d", "journey start, step opened: the customer's time 14 days → 7 days"),
        ("[card_sent]", "[card_sent, pin_sent]", "step opened: the company owes card_sent → card_sent, pin_sent"),
        ("stakes: 0.5", "stakes: 0.25", "journey start, step opened: stakes 50 % → 25 %"),
        ("count: 3", "count: 5", "clusters: count 3 → 5"),
        ("track_weight: 1.5", "track_weight: 2", "clusters: weight of the next touch 1.5 → 2"),
        ("segments: [tier, note]", "segments: [tier]", "catalog: segments tier, note → tier"),
        (", controllable: true", "", "feature tier: controllable yes → no"),
    ],
)
def test_changes_are_told_in_words(old: str, new: str, sentence: str) -> None:
    (told,) = diff(parse_catalog(TEXT), parse_catalog(TEXT.replace(old, new, 1)))
    assert told.endswith(sentence)
