"""The process of one query: `python -m nbx.runtime.query_worker`, started by `nbx.runtime.querying` and nobody else."""

from __future__ import annotations

from nbx.runtime.querying import work

if __name__ == "__main__":
    work()
