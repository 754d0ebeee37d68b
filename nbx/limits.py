"""Every bound of the system, with its unit and the reason for its value."""

ID_LENGTH = 128
"""Characters in an id given by a caller: long enough for two UUIDs and a prefix, short enough for a Redis key."""
NAME_LENGTH = 64
"""Characters in a declared name (feature, action, ...): they repeat in every record."""
BODY_BYTES = 1 << 20
"""Bytes in one HTTP body or gRPC message: a hundred events with full properties."""
CONTEXT_KEYS = 64
"""Keys in a request's context or an event's properties."""
TEXT_LENGTH = 1024
"""Characters in one text value of a context, property or reason: features are categories, not documents."""
SLOTS = 10
"""Slots in one decision: a slate is read by a person."""
ORIGINS = 100
"""Origins of a publishable key: the sites of one company."""
BATCH = 100
"""Decisions or events in one call."""
EXCLUDES = 200
"""Actions a caller may exclude."""
FUTURE_MS = 300_000
"""How far ahead of the server's clock an event may claim to be: five minutes of skew; more is a wrong clock."""
PAST_MS = 30 * 86_400_000
"""How old a behaviour event may be: windows and half-lives rarely reach further back."""
CONTACTS = 64
"""Proved exposures kept per customer and action: a cap above this cannot be declared."""
UNLIMITED = 8
"""Prompts not seen yet that are kept in mind per customer, channel and action which no limit bounds: the latest to end.
They count only should the next release bound it; a customer whose page asks every second must not carry thousands."""
PAUSES = 16
"""Pauses kept per customer and scope, the longest: the others matter only should all of these be withdrawn."""
EXPOSURES_MS = 30 * 86_400_000
"""How long exposures are kept at least, so that a limit of a later release counts what was before it."""
BUCKETS = 24
"""Buckets per rolling window: a window is exact to 1/24 of its length."""
ALIASES = 64
"""Other ids of one customer: devices and cookies of a person; more is a shared kiosk, or a broken integration."""
COMMIT_ATTEMPTS = 8
"""Reloads after version conflicts before a decision degrades: beyond it, someone is hammering one customer."""
CANDIDATES = 1024
"""Actions with a treatment for one placement: kernels and records are sized for it."""
OBLIGATIONS = 64
"""Topics per customer of which it is kept when the company failed and made good: more than a catalog has."""
PROMISES = 16
"""Promises kept in mind per customer: the oldest that is settled makes room, then the oldest."""
RECENT = 10
"""Decisions with an action kept in mind per customer, the latest: a day's worth, and what a person still remembers."""
CORRECTED_MS = 86_400_000
"""How long after a decision a corrected feature value still counts as evidence that it was wrong then."""
CLUSTERS = 16
"""Most clusters that customers are told apart into: each is a column of x, and people have to read them."""
SEGMENTS = 8
"""Most features that reports split customers by: their values are in every decision record."""
TERMS = 4
"""Promises of one thing kept per customer, made one after the other: what came late is placed right among so many."""
DEEDS = 8
"""Times kept per side of a journey's step: what came late is placed right among so many, and in 80 bytes."""
WORD_MS = 366 * 86_400_000
"""How long a customer may pause something: who wants longer stops it."""
STOPPED_MS = 253_402_300_799_000
"""Until when something stopped is paused, epoch milliseconds: the end of the year 9999."""
GOALS = 16
"""Goals watched for one customer at a time: 1 KB of state; a decision beyond it opens none and teaches none."""
MONEY = 1e12
"""Largest amount an event may report, in either direction: sums of them stay exact to a cent."""
MONEY_PARTS = 10_000
"""Parts of one unit of money in which budgets are counted: whole numbers add up exactly."""
BUDGET_PARTS = 2**53 - 1
"""Largest total of a budget, in units or `MONEY_PARTS`: scripts of Redis count in doubles."""
BUDGET_KEPT_MS = 86_400_000
"""How long after its end a budget's window may still be spent from, by workers whose clocks are late."""
CATALOG_BYTES = 10 << 20
"""Bytes in one catalog file."""
NOTE_LENGTH = 1000
"""Characters in the note of a draft or release: a paragraph."""
DRAFTS = 100
"""Drafts kept; the oldest goes when one more comes."""
DRAFT_KEPT_MS = 90 * 86_400_000
"""How long a draft is kept: a quarter is a campaign's planning."""
PLANS = 32
"""Compiled releases a process keeps besides the one in force: a fortnight of outcomes at two releases a day."""
FEATURE_WIDTH = 256
"""Columns of the encoded vector x: covariance grows with its square."""
DEGRADED_QUEUE = 10_000
"""Degraded decisions kept in memory until the log is back; more are counted and dropped."""
REPORT_ROWS = 100_000
"""Decisions a report keeps in memory, the newest: some 100 MB in the process that answers it."""
ROI_CUSTOMERS = 200_000
"""Customers a report on experience's return keeps, those met first: a sequence may not lose its beginning. 250 MB."""
VERIFY_ROW_FAULTS = 100
"""Faulty rows that are told one by one of a segment; of more it is told how many there are."""
EXPLAIN_ENTRIES = 50_000
"""Log entries of one partition read for one explanation, backwards from the decision: a second and a half."""
SHADOW_DECISIONS = 20_000
"""Decisions a shadow run replays: with 500 candidates each some 200 MB."""
REPLAY_ENTRIES = 100_000
"""Log entries read again for a deep replay over HTTP: some ten seconds of a core; the command line has no bound."""
REPLAY_S = 120.0
"""Seconds after which a deep replay over HTTP is given up."""
ERASED_MS = 86_400_000
"""How long the time of an erasure is kept: a degraded decision of before waits no longer in a worker's memory."""
ERASED_SITES_MS = 7 * 86_400_000
"""How long subtracted sites are kept: so long a learner may be down and yet do the step again with the same result."""
ERASURE_KEPT_MS = 400 * 86_400_000
"""How long the receipt of an erasure is kept: a year and a month, for whoever has to prove it."""
ARCHIVE_BYTES = 64 << 20
"""Bytes of log in one segment of the archive: what the keeper has in memory, three times over, while it writes one."""
ARCHIVE_CACHE_BYTES = 64 << 20
"""Bytes of archived log that a process keeps unpacked: reports read all partitions side by side."""
ADMIN_KEPT = 10_000
"""Entries of the admin trail that stay in Redis: more than anyone pages through."""
QUERY_LENGTH = 20_000
"""Characters in one SQL query: what a person writes, or a dashboard's largest."""
QUERY_ROWS = 10_000
"""Rows of a query's answer when nobody says."""
QUERY_MOST_ROWS = 100_000
"""Rows of a query's answer over HTTP at most; more is an export."""
QUERY_BYTES = 8 << 20
"""Bytes of a query's answer over HTTP: what the api process holds of it."""
QUERY_S = 30.0
"""Seconds a query over HTTP may take: who asks waits for it, and another cannot ask meanwhile."""
QUERY_MEMORY_BYTES = 1 << 30
"""Memory of one query over HTTP: a window of a month fits, a cross join does not."""
QUERY_ADDRESS_BYTES = 4 << 30
"""Address space of the process of a query over HTTP: libraries take 1 GB of it without using it."""
QUERY_LIVE_ROWS = 200_000
"""Entries of the live log a query reads, the newest: twice what a segment holds, in some 15 s."""
QUERY_HASHED_BYTES = 64 << 20
"""Bytes of segments whose hashes a query checks before it reads them: a twentieth of a second; beyond it, `verify`."""
FOUND = 1_000
"""Decisions in one answer of a search: a page that is read by a person."""
