"""A Feast feature server over a given Redis; run by `bench_feast` with the Python that Feast is installed for.

    python benchmarks/feast_peer.py PORT REDIS_HOST_PORT FEATURES CUSTOMERS FOLDER

Makes a repository in the folder, writes the customers' features into the online store, and serves. It knows nothing of
nbx. With a port of 0 it only says whether Feast is there.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

CONFIG = """
project: bench
provider: local
registry: {folder}/registry.db
online_store: {{type: redis, connection_string: "{redis}"}}
offline_store: {{type: file}}
entity_key_serialization_version: 3
"""


def main(port: int, redis: str, features: int, customers: int, folder: Path) -> None:
    """Fill and serve."""
    pd: Any = import_module("pandas")
    feast: Any = import_module("feast")
    number: Any = import_module("feast.types").Float32

    if port == 0:
        print("feast is there")
        return
    names = [f"f{k}" for k in range(features)]
    folder.joinpath("feature_store.yaml").write_text(CONFIG.format(folder=folder, redis=redis))
    now = pd.Timestamp.now(tz="UTC")
    rows = pd.DataFrame(
        {
            "customer_id": [f"c{n}" for n in range(customers)],
            **{name: [n % 9 + 0.5 for n in range(customers)] for name in names},
            "event_timestamp": [now] * customers,
        }
    ).astype(dict.fromkeys(names, "float32"))
    path = folder / "customers.parquet"
    rows.to_parquet(path)
    customer = feast.Entity(name="customer", join_keys=["customer_id"], value_type=feast.ValueType.STRING)
    view = feast.FeatureView(
        name="profile",
        entities=[customer],
        schema=[feast.Field(name=name, dtype=number) for name in names],
        source=feast.FileSource(path=str(path), timestamp_field="event_timestamp"),
        online=True,
    )
    store = feast.FeatureStore(repo_path=str(folder))
    store.apply([customer, view])
    store.write_to_online_store("profile", df=rows)
    store.serve(
        host="127.0.0.1", port=port, type_="http", no_access_log=True, workers=1, worker_connections=1000,
        max_requests=10_000_000, max_requests_jitter=0, keep_alive_timeout=60, registry_ttl_sec=3600,
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
