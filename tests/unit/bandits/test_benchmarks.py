"""The benchmarks of this package run at their smoke size, so they cannot rot."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmarks import bench_kernels, bench_learner, bench_river


@pytest.mark.parametrize("benchmark", [bench_kernels, bench_learner, bench_river])
def test_benchmark_runs(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(smoke=True)
    assert "medians of" in capsys.readouterr().out
