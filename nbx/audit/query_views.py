"""The ready views of the log for SQL, each with what it is for. docs/query.md shows how to ask them.

All but `entries` and `log` leave out rows whose customer was erased. Names are those of the log's columns; times are
UTC, without a zone. `at` is when it happened, `logged_at` when it was written.
"""

# ruff: noqa: S608 - put together from texts of ours

from __future__ import annotations

import re
from typing import Final, NamedTuple


class View(NamedTuple):
    """A view."""

    about: str
    """What a row is."""
    select: str


_WORD = re.compile("[a-z_]+")
_DECIDED = 'decision_id, "at", logged_at, customer_id, placement, channel, release, holdout, degraded'

VIEWS: Final[dict[str, View]] = {
    "entries": View(
        "a row of the log as it is kept, with the packed entry (`payload`) and its hash",
        "SELECT * FROM kept WHERE partition >= -1",
    ),
    "log": View(
        "a row of the log in its typed columns, those of erased customers (kind `erased`) too",
        "SELECT * EXCLUDE (payload, row_hash) FROM entries",
    ),
    "decisions": View(
        "a decision",
        f"""SELECT {_DECIDED}, len(degraded) > 0 AS is_degraded, snapshot, state_version, request_id, context, took_us,
            none_probability, exchange, strain, balance, stakes, cluster, segments, slots,
            len(candidates) AS candidates, len(removed) AS removed, partition
        FROM entries WHERE kind = 'decision'""",
    ),
    "slots": View(
        "a slot of a decision: an action with its propensity, or why none",
        f"""SELECT {_DECIDED}, s.slot, s.action, s.treatment, s."group", s.p_response, s.propensity, s.none,
            s.expires_at, partition
        FROM (SELECT *  EXCLUDE (slot), unnest(slots) AS s FROM entries WHERE kind = 'decision')""",
    ),
    "candidates": View(
        "an action that could have been drawn, with its factors and probability; `drawn`: it was, into `slot`",
        f"""SELECT {_DECIDED}, c.*, placed > 0 AS drawn, CASE WHEN placed > 0 THEN placed - 1 END AS slot, partition
        FROM (SELECT * REPLACE (coalesce(list_position(actions, c.action), 0) AS placed) FROM (
            SELECT * EXCLUDE (slot), unnest(candidates) AS c, 0 AS placed,
                list_transform(slots, lambda s: s.action) AS actions
            FROM entries WHERE kind = 'decision'))""",
    ),
    "removed": View(
        "an action that a rule removed from a decision, with the first reason",
        f"""SELECT {_DECIDED}, r.action, r.reason, r.detail, partition
        FROM (SELECT * EXCLUDE (reason), unnest(removed) AS r FROM entries WHERE kind = 'decision')""",
    ),
    "outcome_revisions": View(
        "what became of a slot, each revision of it",
        """SELECT o.decision_id, o.slot, o.revision, o."at", logged_at, customer_id, o.placement, o.channel, o.action,
            o."group", o.treatment, o.outcome, o.previous, o.cause, o.confidence, o.rule, o.evidence, o.response,
            o.response_weight, o.experience, o.experience_weight, o.value, o.seen_reported, o.learns, o.release,
            kind AS told_by, partition
        FROM (SELECT kind, logged_at, customer_id, partition, unnest(outcomes) AS o FROM entries
            WHERE kind IN ('event', 'timer', 'profile'))""",
    ),
    "outcomes": View(
        "the same; `latest`: no later revision of the slot is within the time asked about",
        """SELECT *, revision = max(revision) OVER (PARTITION BY decision_id, slot) AS latest
        FROM outcome_revisions""",
    ),
    "goals": View(
        "whether a placement's goal was reached after a decision; `latest` as in `outcomes`",
        """SELECT g.*, logged_at, customer_id, kind AS told_by, partition,
            g.revision = max(g.revision) OVER (PARTITION BY g.decision_id) AS latest
        FROM (SELECT kind, logged_at, customer_id, partition, unnest(goals) AS g FROM entries
            WHERE kind IN ('event', 'timer'))""",
    ),
    "customers_timeline": View(
        "something that happened to or was done by a customer",
        """SELECT customer_id, "at", logged_at, kind,
            CASE kind WHEN 'decision' THEN 'decided' WHEN 'profile' THEN 'profile changed' WHEN 'erase' THEN 'erased'
                WHEN 'timer' THEN type || ' ran out' WHEN 'event' THEN type ELSE kind END AS what,
            decision_id, slot, placement,
            CASE WHEN kind = 'decision'
                THEN list_transform(slots, lambda s: CASE WHEN s.action = '' THEN 'none' ELSE s.action END)
                ELSE list_transform(outcomes, lambda o: o.action) END AS actions,
            list_transform(outcomes, lambda o: o.outcome) AS outcomes,
            coalesce(nullif(cause, ''), list_filter(list_transform(outcomes, lambda o: o.cause), lambda c: c <> '')[1])
                AS cause,
            reason, "by" AS who, value, text, details, release, partition
        FROM entries WHERE partition >= 0 AND kind <> 'erased'""",
    ),
    "admin_changes": View(
        "something that was done to the installation: catalog, API keys, settings",
        """SELECT "at", logged_at, "by" AS who, type AS what, details FROM entries WHERE kind = 'admin'""",
    ),
    "catalog_changes": View(
        "something that was done to the catalog: a draft, a release, a rollback",
        """SELECT *, TRY_CAST(details ->> 'release' AS INTEGER) AS release FROM admin_changes
        WHERE what LIKE 'draft%' OR what IN ('published', 'rolled_back')""",
    ),
}
"""Name → view, in an order in which each only needs those before it."""


def views_in(sql: str) -> dict[str, View]:
    """Return the views that a query may need, in order: those it names, and what these need.

    Examples
    --------
    >>> list(views_in("SELECT count(*) FROM Outcomes"))
    ['entries', 'outcome_revisions', 'outcomes']
    """
    named = set(_WORD.findall(sql.lower()))
    found: dict[str, View] = {}
    for name, view in reversed(VIEWS.items()):
        if name in named:
            found[name] = view
            named.update(_WORD.findall(view.select))
    return dict(reversed(found.items()))
