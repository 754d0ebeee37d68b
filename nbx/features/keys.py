"""Names of Redis keys. All keys of a customer share the hash tag of its partition: one script may touch them."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple


class PartitionKeys(NamedTuple):
    """Keys of one partition.

    Examples
    --------
    >>> partition_keys(7).customer("anna")
    'nbx:{p7}:c:anna'
    """

    prefix: str
    log: str
    timers: str

    def customer(self, customer_id: str) -> str:
        """State of a customer."""
        return f"{self.prefix}c:{customer_id}"

    def decision(self, decision_id: str) -> str:
        """Open decision: what its events need."""
        return f"{self.prefix}d:{decision_id}"

    def request(self, customer_id: str, request_id: str) -> str:
        """Stored reply of an idempotent request; scoped by customer, as two customers' channels may count alike."""
        return f"{self.prefix}q:{customer_id}:{request_id}"

    def event(self, event_id: str) -> str:
        """Mark of an event already taken in."""
        return f"{self.prefix}e:{event_id}"

    def sites(self, decision_id: str) -> str:
        """Sites the learner added for a decision: hash of `<slot>/<revision>`."""
        return f"{self.prefix}s:{decision_id}"

    def erased(self, customer_id: str) -> str:
        """When a customer was erased, epoch milliseconds; short TTL. Does not say who, as it outlives the erasure."""
        return f"{self.prefix}g:{blake2b(customer_id.encode(), digest_size=16).hexdigest()}"

    def erasure(self, erasure_id: str) -> str:
        """Receipt of an erasure."""
        return f"{self.prefix}x:{erasure_id}"

    @property
    def first(self) -> str:
        """Log id before which the partition's stream was trimmed."""
        return f"{self.prefix}first"

    def spending(self, lease: str) -> str:
        """What the partition's decisions took from a lease of a budget; `c` before the number: it is closed."""
        return f"{self.prefix}b:{lease}"


@lru_cache(maxsize=1024)
def partition_keys(partition: int) -> PartitionKeys:
    """Return the keys of a partition."""
    prefix = f"nbx:{{p{partition}}}:"
    return PartitionKeys(prefix, f"{prefix}log", f"{prefix}t")


PARTITIONS = "nbx:meta:partitions"
"""Number of partitions, fixed at first start."""
CATALOG_CURRENT = "nbx:catalog:current"
"""Number of the release in force."""
CATALOG_HISTORY = "nbx:catalog:history"
"""Hash: number of a release → what history tells of it."""
CATALOG_DRAFTS = "nbx:catalog:drafts"
"""Sorted set: ids of drafts by when they were made, epoch milliseconds."""
ADMIN_LOG = "nbx:admin:log"
"""Stream: who changed what; the latest 10,000 stay when it is trimmed behind the archive."""
MODEL_VERSION = "nbx:model:version"
"""Version of the published snapshot: small, so that workers may poll it."""
MODEL_SNAPSHOT = "nbx:model:snapshot"
MODEL_SIGNALS = "nbx:model:signals"
"""JSON: how the `seen` events of each placement are, as of the snapshot."""
MODEL_CHECKPOINT = "nbx:model:checkpoint"
MODEL_REACHED = "nbx:model:reached"
"""Step and log offsets of the checkpoint, beside it: what a learner that was killed needs no more."""
MODEL_JOURNAL = "nbx:model:journal"
"""Stream: one entry per learner step with the log offsets it covers; what makes a model a fold of the log."""
KEYS_VERSION = "nbx:keys:version"
"""Counts changes of API keys."""
KEYS = "nbx:keys:all"
"""Hash: key id → record with the hashed secret."""
OWN_SIGNER = "nbx:own:signer"
"""What links to customers' own views are signed with."""
PSEUDONYM_KEY = "nbx:pseudonym:key"
"""What customers' pseudonyms are made with, unless a file holds it."""
SETTINGS_KNOWN = "nbx:settings:known"
"""Hash: a kind of process on a machine → JSON of the settings it was last started with, secrets hashed."""
ARCHIVE_HEAD = "nbx:archive:head"
"""JSON: number, hash and end in bytes of the newest record of the archive's chain: one cut short is noticed."""
ARCHIVE_SIGNER = "nbx:archive:signer"
"""Ed25519 key, 32 bytes, that rewrites of the archive and exported heads are signed with."""
ARCHIVE_FAULT = "nbx:archive:fault"
"""Why the keeper cannot write the archive; gone once it can."""
LEASE_LEARNER = "nbx:lease:learner"
LEASE_KEEPER = "nbx:lease:keeper"


def build_key(fingerprint: str) -> str:
    """Key of what a build is made of: JSON, written once."""
    return f"nbx:meta:build:{fingerprint}"


def release_key(number: int) -> str:
    """Key of a release: JSON, written once and never changed."""
    return f"nbx:catalog:release:{number}"


def release_text_key(number: int) -> str:
    """Key of a release's text as it was written."""
    return f"nbx:catalog:text:{number}"


def draft_key(draft_id: str) -> str:
    """Key of a draft; its text is apart."""
    return f"nbx:catalog:draft:{draft_id}"


def draft_text_key(draft_id: str) -> str:
    """Key of a draft's text."""
    return f"nbx:catalog:draft_text:{draft_id}"
