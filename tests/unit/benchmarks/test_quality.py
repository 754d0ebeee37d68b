"""The comparison itself: streams, protocols, what is run and what is kept. Policies here are known, so results are."""

from __future__ import annotations

import doctest
import gzip
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from benchmarks.quality import batches, data, encode, installed, policy, protocols, report, stats
from benchmarks.quality.cache import Cache
from benchmarks.quality.peers import PEERS
from benchmarks.quality.peers_plain import BestFixed
from benchmarks.quality.policy import Peer, Setting
from benchmarks.quality.run import SCREEN, Runner, Scope
from benchmarks.quality.task import Protocol, Stream, Table, Task, stream

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

MADE: Counter[tuple[str, int]] = Counter()
"""Runs of `Always` by setting and seed."""


class Always:
    """Choose one action; write down what it is told."""

    def __init__(self, setting: Setting, stream: Stream) -> None:
        self.action = int(dict(setting.values).get("action", 0))
        self.told: list[tuple[int, int, float, float, float]] = []
        self.decided: list[int] = []
        MADE[setting.label, stream.seed] += 1

    def prepare(self, row: int) -> None: ...

    def decide(self, row: int) -> tuple[int, float]:
        self.decided.append(row)
        return self.action, 0.7

    def learn(self, row: int, action: int, success: float, reward: float, propensity: float) -> None:
        assert self.decided[-1] == row, "a row is scored before it is learned"
        self.told.append((row, action, success, reward, propensity))


def always(action: int, rows: Stream) -> Always:
    return Always(Setting("test", "always", (("action", action),)), rows)


def log_table(count: int = 4000, gain: tuple[float, ...] = (), shift: tuple[float, ...] = ()) -> Table:
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(count), rng.normal(size=count)]).astype(np.float32)
    logged = rng.integers(2, size=count)
    rate = 0.2 + 0.5 * logged + 0.1 * (x[:, 1] > 0)
    success = (rng.random(count) < rate).astype(np.float64)
    return Table(("one", "x1"), x, ("a", "b"), success, logged, gain, shift)


def known_table(count: int = 50) -> Table:
    x = np.arange(count, dtype=np.float32)[:, None]
    return Table(("one",), x, ("a", "b", "c"), np.tile([0.0, 1.0, 0.25], (count, 1)))


def task(protocol: Protocol, table: Table, rows: int = 1000, *, money: bool = False) -> Task:
    return Task("t", protocol, rows, "", lambda _: table, money=money)


def rows_of(protocol: Protocol, table: Table, seed: int = 0, rows: int = 1000) -> Stream:
    return stream(task(protocol, table), table, seed, rows)


@pytest.mark.parametrize("module", [encode, installed, policy, stats])
def test_examples_run(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_a_stream_is_rows_without_repetition_fixed_by_its_seed() -> None:
    table = known_table()
    first, again, other = rows_of("full", table), rows_of("full", table), rows_of("full", table, seed=1)
    assert sorted(first.x[:, 0].tolist()) == list(range(50))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert len(rows_of("full", table, rows=7)) == 7
    again.success[3, 1] = 0.0
    assert again.fingerprint != first.fingerprint, "any number changes it"


def test_answers_are_drawn_with_their_chances() -> None:
    drawn = rows_of("full", known_table(4000), rows=4000)
    assert set(np.unique(drawn.success).tolist()) == {0.0, 1.0}
    assert drawn.success.mean(0) == pytest.approx([0.0, 1.0, 0.25], abs=0.03)


def test_full_information_scores_the_expectation_and_teaches_the_draw() -> None:
    rows = rows_of("full", known_table())
    told = always(2, rows)
    result = protocols.play(rows, told)
    assert result is not None
    assert (result.reward, result.last_tenth, result.count) == (0.25, 0.25, 50)
    assert [row for row, *_ in told.told] == list(range(50))
    assert {(action, propensity) for _, action, *_, propensity in told.told} == {(2, 0.7)}
    assert {success for _, _, success, _, _ in told.told} == {0.0, 1.0}


def test_replay_counts_and_teaches_matches_only() -> None:
    rows = rows_of("replay", log_table(), seed=5)
    told = always(1, rows)
    result = protocols.play(rows, told)
    assert result is not None
    assert rows.logged is not None
    matches = np.flatnonzero(rows.logged == 1)
    assert result.reward == rows.success[matches].mean()
    assert result.last_tenth == rows.success[matches][-(len(matches) // 10) :].mean()
    assert [row for row, *_ in told.told] == matches.tolist()
    assert {propensity for *_, propensity in told.told} == {0.7}, "the policy's own"


def test_a_log_teaches_every_row_and_is_scored_without_bias() -> None:
    table = log_table(40_000)
    rows = rows_of("off_policy", table, rows=40_000)
    told = always(1, rows)
    result = protocols.play(rows, told)
    assert result is not None
    assert rows.logged is not None
    assert [(row, action) for row, action, *_ in told.told] == list(enumerate(rows.logged.tolist()))
    assert {propensity for *_, propensity in told.told} == {0.5}, "the log's"
    shown = rows.logged == 1
    assert result.snips == pytest.approx(rows.success[shown].mean())
    assert result.ips == pytest.approx(2 * (rows.success * shown).mean())
    truth = 0.2 + 0.5 + 0.1 * 0.5
    assert result.reward == pytest.approx(truth, abs=0.01)
    errors = []
    for seed in range(20):
        rows = rows_of("off_policy", table, seed)
        result = protocols.play(rows, always(1, rows))
        assert result is not None
        assert result.ips is not None
        errors.append((result.reward - truth, result.ips - truth))
    robust, plain = (np.array(errors) ** 2).mean(0)
    assert robust < 0.7 * plain, "what the regression explains is not noise"


def test_money_is_told_in_units_of_the_largest_gain() -> None:
    rows = rows_of("off_policy", log_table(gain=(10.0, 10.0), shift=(0.0, -0.15)))
    told = always(0, rows)
    result = protocols.play(rows, told)
    assert result is not None
    assert result.reward > 1.0, "in money"
    seen = {(action, success): reward for _, action, success, reward, _ in told.told}
    assert seen == {(0, 0.0): 0.0, (0, 1.0): 1.0, (1, 0.0): -0.015, (1, 1.0): pytest.approx(0.985)}


def test_a_policy_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "LIMIT_S", -1.0)
    for rows in (
        rows_of("full", known_table()),
        rows_of("replay", log_table()),
        rows_of("off_policy", log_table()),
    ):
        assert protocols.play(rows, always(1, rows)) is None


def test_the_best_fixed_action_counts_its_costs() -> None:
    dear = log_table(gain=(1.0, 1.0), shift=(0.0, -0.6))
    assert BestFixed(Setting("plain", "best"), rows_of("replay", log_table())).best == 1
    assert BestFixed(Setting("plain", "best"), rows_of("replay", dear)).best == 0
    assert BestFixed(Setting("plain", "best"), rows_of("full", known_table())).best == 1


class Recorder:
    """A model for batches that writes down its calls."""

    def __init__(self) -> None:
        self.fitted: list[int] = []
        self.asked: list[int] = []

    def predict(self, x: NDArray[np.float64]) -> list[int]:
        self.asked.append(len(x))
        return [1] * len(x)

    def partial_fit(self, x: NDArray[np.float64], actions: NDArray[np.int64], rewards: NDArray[np.float64]) -> None:
        assert len(x) == len(actions) == len(rewards)
        self.fitted.append(len(x))


@pytest.mark.parametrize("protocol", ["full", "replay"])
def test_batches_lose_no_lesson(protocol: Protocol) -> None:
    rows = rows_of(protocol, known_table(600) if protocol == "full" else log_table())
    for batch in (None, 50):
        model = Recorder()
        result = protocols.play(rows, batches.Batched(model, rows, constant=True, batch=batch))
        assert result is not None
        missing = result.count - sum(model.fitted)
        if batch is None:
            assert model.fitted[:64] == [1] * 64, "at once while little is known"
            assert model.fitted[-2] == max(1, sum(model.fitted[:-2]) // 32)
            assert missing <= model.fitted[-1] + 1
        else:
            assert set(model.fitted) == {50}
            assert missing < 50


def peer(**more: Any) -> dict[str, Peer]:
    grid = tuple({"action": k} for k in range(3))
    return {"test": replace(Peer("test", "1", ("always",), Always, {"always": grid}), **more)}


def run(peers: dict[str, Peer], cache: Cache, *, seeds: int = 4, money: bool = False) -> Runner:
    one = task("full", known_table(), money=money)
    runner = Runner(Scope((one,), peers, tuple(peers["test"].settings()), seeds), cache, lambda *_: None)
    runner.everything()
    return runner


def test_grids_run_on_few_seeds_and_their_best_on_all() -> None:
    runs = run(peer(), Cache(None)).runs["t"]
    seeds = {setting.label: len(results) for setting, results in runs.items()}
    assert seeds == {"always": 4, "always action=0": SCREEN, "always action=1": 4, "always action=2": SCREEN}


def test_slow_policies_get_fewer_seeds_and_some_take_no_money() -> None:
    runs = run(peer(seeds={"always": 1}), Cache(None)).runs["t"]
    assert {len(results) for results in runs.values()} == {1}
    assert run(peer(binary=("always",)), Cache(None), money=True).runs["t"] == {}


def test_a_run_resumes_from_its_file_until_the_code_changes(tmp_path: Path) -> None:
    file = tmp_path / "cache.jsonl"
    first = run(peer(), Cache(file)).runs
    with file.open("ab") as broken:
        broken.write(b'{"key":{"task"')  # killed while it wrote
    MADE.clear()
    again = run(peer(), Cache(file)).runs
    assert not MADE, "everything was on file"
    assert again == first
    run(peer(version="2"), Cache(file))
    assert sum(MADE.values()) == 4 + 3 * SCREEN + (4 - SCREEN)
    assert len(Cache(file).results) == 2 * sum(MADE.values())


def test_the_report_compares_with_the_best_peer_of_each_task() -> None:
    def result(reward: float) -> protocols.Result:
        return protocols.Result(reward, reward, 10, 1.0)

    def runs(*rewards: float) -> dict[int, protocols.Result]:
        return {seed: result(reward) for seed, reward in enumerate(rewards)}

    standings = report.standings(
        {
            Setting("nbx", "nbx"): runs(0.50, 0.48),
            Setting("plain", "best fixed action"): runs(0.9, 0.9),
            Setting("vw", "bag"): runs(0.40, 0.39),
            Setting("vw", "bag", (("bag", 8),)): runs(0.53, 0.51),
            Setting("vw", "bag", (("bag", 2),)): runs(0.99),
        }
    )
    table = report.summary({"t": standings})
    assert table is not None
    (row, mean_rank) = table.rows
    assert row == ("t", "0.4900", "1 of 2", "vw bag", "+0.0950*", "2 of 2", "vw bag bag=8", "0.942 <")
    assert (mean_rank[2], mean_rank[5]) == ("1.00", "2.00")
    lines = {line[0]: line for line in report.of_task("t", "", standings).rows}
    assert lines["vw bag"][2] == "-0.0950*"
    assert lines["vw bag"][4:6] == ("0.5200", "bag=8")


def test_a_page_keeps_what_stands_around_its_results(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{report.START}\nold\n{report.END}\nafter\n")
    report.write(page, "new\n")
    assert page.read_text() == f"before\n{report.START}\n\nnew\n\n{report.END}\nafter\n"
    report.write(tmp_path / "fresh.md", "new\n")
    assert (tmp_path / "fresh.md").read_text() == "new\n"


def easy(protocol: Protocol, count: int = 600) -> Stream:
    """Right is the action that the one feature names."""
    rng = np.random.default_rng(11)
    side = rng.integers(2, size=count)
    x = np.column_stack([np.ones(count), 2.0 * side - 1.0]).astype(np.float32)
    if protocol == "full":
        return rows_of("full", Table(("one", "side"), x, ("l", "r"), np.eye(2)[side]))
    logged = rng.integers(2, size=count)
    return rows_of(protocol, Table(("one", "side"), x, ("l", "r"), (logged == side).astype(float), logged))


BLIND = {("plain", "uniform"), ("plain", "best fixed action"), ("river", "ThompsonSampling"), ("river", "UCB")}
SHY = {"regcb", "softmax", "cover", "first", "AdaptiveGreedy"}
"""Explore so much untuned that six hundred rows prove nothing."""
BROKEN = {("contextualbandits", "LinTS"): (("sample_from", "ci"),)}
"""What works where the default does not."""


@pytest.mark.parametrize("protocol", ["full", "replay", "off_policy"])
@pytest.mark.parametrize(
    ("name", "policy"), [(p.name, policy) for p in PEERS if p.version is not None for policy in p.policies]
)
def test_whoever_is_installed_learns_what_is_easy(protocol: Protocol, name: str, policy: str) -> None:
    rows = easy(protocol)
    made = next(p for p in PEERS if p.name == name)
    result = protocols.play(rows, made.make(Setting(name, policy, BROKEN.get((name, policy), ())), rows))
    assert result is not None
    assert 0.0 <= result.reward <= 1.1
    if (name, policy) in BLIND:
        assert result.last_tenth < 0.8
    elif policy not in SHY:
        assert result.last_tenth > 0.8


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress("\n".join(lines).encode()))


def test_offers_know_the_customers_past_and_not_his_future(tmp_path: Path) -> None:
    header = (
        "customer_id,offer_received_time,offer_completed_time,offer_completed,offer_type_v2,"
        "age,income,days_registered,gender_F,gender_M,gender_Missing"
    )
    end = "55,65000,500,1,0,0"
    write(
        tmp_path / data.OFFERS[0],
        [header, f"b,0,-1,0,x,{end}", f"a,168,700,1,x,{end}", f"a,0,132,1,y,{end}", f"a,408,-1,0,x,{end}"]
        + [f"c,168,169,1,x,{end}"] * 2,
    )
    write(tmp_path / data.OFFERS[1], [header, f"a,336,400,1,y,{end}"])
    table = data.offers(tmp_path)
    at = table.columns.index
    before = table.x[:, [at("received_before"), at("completed_before")]] * [1.5, 1.0] + [2.0, 1.0]
    assert before.round(4).tolist() == [[0, 0], [1, 1], [0, 0], [3, 2], [0, 0], [0, 0], [2, 1]]
    assert table.actions == ("x", "y")
    assert table.logged is not None
    assert table.logged.tolist() == [0, 0, 1, 0, 0, 0, 1]
    assert table.success.tolist() == [0, 1, 1, 0, 1, 1, 1]


def test_files_become_tables(tmp_path: Path) -> None:
    write(
        tmp_path / data.HILLSTROM[0],
        [
            "recency,history_segment,history,mens,womens,zip_code,newbie,channel,segment,visit,conversion,spend",
            "6,2) $100 - $200,148.4131591,1,0,Rural,0,Phone,Womens E-Mail,1,0,0",
            '6,"6) $750 - $1,000",148.4131591,1,0,Urban,1,Web,No E-Mail,0,0,0',
        ],
    )
    table = data.hillstrom(tmp_path)
    named = [dict(zip(table.columns, row.tolist(), strict=True)) for row in table.x]
    assert named[0]["log_history"] == pytest.approx(0.0, abs=1e-6)
    assert [(row["one"], row["zip_code=Rural"], row["newbie"]) for row in named] == [(1, 1, -1), (1, 0, 1)]
    assert table.logged is not None
    assert (table.logged.tolist(), table.success.tolist()) == ([2, 0], [1, 0])
    promo = ["ID,Promotion,purchase,V1,V2,V3,V4,V5,V6,V7", "1,Yes,1,0,35,0.5,1,4,2,2"]
    for file in data.PROMO:
        write(tmp_path / file, promo)
    plain, value = data.promo(tmp_path), data.promo(tmp_path, value=True)
    assert (plain.gain, value.gain, value.shift) == ((), (10.0, 10.0), (0.0, -0.15))
    assert dict(zip(plain.columns, plain.x[1].tolist(), strict=True))["V2"] == 1.0


def test_the_world_is_its_seeds() -> None:
    one, same, other = (data.world(200, seed, actions=4, d=5) for seed in (0, 0, 1))
    assert one.x.shape == (200, 5)
    assert one.success.shape == (200, 4)
    assert (one.success == same.success).all()
    assert (one.success != other.success).any()
    best = one.success.max(1).mean()
    assert best > one.success.mean(0).max() + 0.02, "no single action is best for all"
    played = stream(Task("w", "full", 200, "", partial(data.world, 200)), one, 0, 200)
    assert (played.expected < 1).all(), "regret is measured against chances, not luck"
