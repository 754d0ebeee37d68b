"""The tasks: randomised logs and classification sets from files, sets inside scikit-learn, one synthetic world."""

from __future__ import annotations

import importlib
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyarrow import concat_tables, csv

from benchmarks.quality.encode import features
from benchmarks.quality.task import Table, Task

if TYPE_CHECKING:
    from numpy.typing import NDArray

HILLSTROM = ("hillstrom/hillstrom.csv.gz",)
PROMO = ("starbucks_promo/training.csv.gz", "starbucks_promo/test.csv.gz")
OFFERS = ("starbucks_offers/train.csv.gz", "starbucks_offers/test.csv.gz")
BANK = ("bank_marketing/bank-additional-full.csv.gz",)
WORLD_ACTIONS, WORLD_COLUMNS = 50, 32


def _read(folder: Path, files: tuple[str, ...], delimiter: str = ",") -> dict[str, NDArray[np.generic]]:
    """Read CSV files of one shape, one after the other, as columns; an empty header is numbered."""
    options = csv.ParseOptions(delimiter=delimiter)
    table = concat_tables([csv.read_csv(folder / file, parse_options=options) for file in files])
    return {name: table[name].to_numpy() for name in table.column_names}


def _index(column: NDArray[np.generic], values: tuple[str, ...]) -> NDArray[np.int64]:
    at = np.full(len(column), -1, np.int64)
    for k, value in enumerate(values):
        at[column == value] = k
    assert (at >= 0).all(), "an action that was not declared"
    return at


@cache
def hillstrom(folder: Path, _: int = 0) -> Table:
    """E-mail for men's goods, for women's goods, or none; success is a visit within two weeks."""
    table = _read(folder, HILLSTROM)
    actions = ("No E-Mail", "Mens E-Mail", "Womens E-Mail")
    table["log_history"] = np.log(table["history"].astype(np.float64))
    columns, x = features(
        table,
        {"recency": (6, 3.5), "log_history": (5, 1), "mens": (0.5, 0.5), "womens": (0.5, 0.5), "newbie": (0.5, 0.5)},
        {"zip_code": ("Surburban", "Urban", "Rural"), "channel": ("Web", "Phone", "Multichannel")},
    )
    return Table(columns, x, actions, table["visit"].astype(np.float64), _index(table["segment"], actions))


@cache
def promo(folder: Path, _: int = 0, *, value: bool = False) -> Table:
    """Send a promotion or not; success is a purchase, worth 10 less 0.15 for sending when `value`."""
    table = _read(folder, PROMO)
    actions = ("No", "Yes")
    columns, x = features(
        table,
        {"V2": (30, 5), "V3": (0, 1)},
        {"V1": (0, 1, 2, 3), "V4": (1, 2), "V5": (1, 2, 3, 4), "V6": (1, 2, 3, 4), "V7": (1, 2)},
    )
    return Table(
        columns,
        x,
        actions,
        table["purchase"].astype(np.float64),
        _index(table["Promotion"], actions),
        gain=(10.0, 10.0) if value else (),
        shift=(0.0, -0.15) if value else (),
    )


@cache
def offers(folder: Path, _: int = 0) -> Table:
    """Ten offers of a rewards app; success is an offer completed. Customer columns and his own past only."""
    table = _read(folder, OFFERS)
    when = table["offer_received_time"].astype(np.float64)
    done = table["offer_completed_time"].astype(np.float64)
    order = np.lexsort((when, table["customer_id"]))
    customer = table["customer_id"][order]
    first = np.r_[True, customer[1:] != customer[:-1]]
    start = np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    received, completed = np.zeros(len(order)), np.zeros(len(order))
    for back in range(1, 7):  # six offers at most
        place = np.arange(len(order)) - back
        at = order[np.maximum(place, 0)]
        before = (place >= start) & (when[at] < when[order])
        received += before
        completed += before & (done[at] >= 0) & (done[at] < when[order])
    for name, column in (("received_before", received), ("completed_before", completed)):
        table[name] = np.empty(len(order))
        table[name][order] = column
    columns, x = features(
        table,
        {
            "age": (55, 16),
            "income": (65_000, 20_000),
            "days_registered": (500, 400),
            "offer_received_time": (330, 200),
            "received_before": (2, 1.5),
            "completed_before": (1, 1),
            "gender_F": (0, 1),
            "gender_M": (0, 1),
            "gender_Missing": (0, 1),
        },
        {},
    )
    actions = tuple(sorted(set(table["offer_type_v2"].tolist())))
    return Table(
        columns, x, actions, table["offer_completed"].astype(np.float64), _index(table["offer_type_v2"], actions)
    )


@cache
def bank(folder: Path, _: int = 0) -> Table:
    """Name the customer's occupation, one of twelve, from the other columns known before the call."""
    table = _read(folder, BANK, ";")
    table["log_campaign"] = np.log(table["campaign"].astype(np.float64))
    table["never"] = (table["pdays"] == 999).astype(np.float64)
    columns, x = features(
        table,
        {
            "age": (40, 10),
            "log_campaign": (0.6, 0.7),
            "previous": (0, 1),
            "never": (0, 1),
            "cons.conf.idx": (-40, 4.6),
            "euribor3m": (3.6, 1.7),
        },
        {
            "marital": ("married", "single", "divorced"),
            "education": (
                "illiterate",
                "basic.4y",
                "basic.6y",
                "basic.9y",
                "high.school",
                "professional.course",
                "university.degree",
                "unknown",
            ),
            "default": ("no",),
            "housing": ("yes",),
            "loan": ("yes",),
            "contact": ("cellular",),
        },
    )
    actions = tuple(sorted(set(table["job"].tolist())))
    return Table(columns, x, actions, np.eye(len(actions))[_index(table["job"], actions)])


@cache
def shipped(name: str, scale: float, _: int = 0) -> Table:
    """Return a classification set from inside scikit-learn; a scale of 0 standardises by the set's own columns."""
    loaded = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")()
    data = loaded.data.astype(np.float64)
    # these sets come without units to declare; every policy is given the same
    data = data / scale if scale else (data - data.mean(0)) / data.std(0)
    x = np.column_stack([np.ones(len(data)), data]).astype(np.float32)
    columns = ("one", *(f"x{k}" for k in range(data.shape[1])))
    return Table(columns, x, tuple(map(str, loaded.target_names)), np.eye(len(loaded.target_names))[loaded.target])


def world(rows: int, seed: int, actions: int = WORLD_ACTIONS, d: int = WORLD_COLUMNS) -> Table:
    """A logistic world drawn from a seed: what customers share, and what each action adds to it."""
    rng = np.random.default_rng([seed, 50])
    x = np.column_stack([np.ones(rows), rng.normal(size=(rows, d - 1))])
    shared = rng.normal(0, 0.7 / np.sqrt(d - 1), d - 1)
    own = rng.normal(0, 0.8 / np.sqrt(d - 1), (actions, d - 1))
    z = rng.normal(-2.0, 0.4, actions) + x[:, 1:] @ (shared + own).T
    columns = ("one", *(f"x{k}" for k in range(1, d)))
    return Table(columns, x.astype(np.float32), tuple(f"a{k}" for k in range(actions)), 1 / (1 + np.exp(-z)))


def tasks(folder: Path) -> list[Task]:
    """Every task, in the order of the report."""
    mail, send, offer = partial(hillstrom, folder), partial(promo, folder), partial(offers, folder)
    value, job = partial(promo, folder, value=True), partial(bank, folder)
    return [
        Task("hillstrom", "replay", 18_000, "e-mail, visit; 3 actions", mail, HILLSTROM),
        Task("hillstrom_log", "off_policy", 12_000, "the same, learned from the log", mail, HILLSTROM),
        Task("promo", "off_policy", 24_000, "promotion, purchase (1 %); 2 actions", send, PROMO),
        Task("promo_value", "off_policy", 24_000, "the same, 10·purchase − 0.15·sent", value, PROMO, money=True),
        Task("offers", "replay", 24_000, "offer of a rewards app, completed; 10 actions", offer, OFFERS),
        Task("bank_job", "full", 6_000, "occupation of a bank's customer; 12 actions", job, BANK),
        Task("digits", "full", 1_797, "handwritten digit; 10 actions", partial(shipped, "digits", 16.0)),
        Task("breast_cancer", "full", 569, "diagnosis; 2 actions", partial(shipped, "breast_cancer", 0.0)),
        Task("world", "full", 5_000, "synthetic, expected reward; 50 actions", partial(world, 5_000)),
    ]
