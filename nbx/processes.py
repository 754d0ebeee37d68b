"""The processes of a service, started without the command line, and without looking for garbage where there is none."""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, Final

from nbx.imports import absent
from nbx.settings import Settings

PROCESSES: Final = ("api", "learner", "keeper")
Main = Callable[[Settings], Coroutine[Any, Any, int]]


def run_process(name: str, settings: Settings) -> int:
    """Run one of `PROCESSES` until it is stopped; returns its exit code."""
    gc.disable()  # a tenth of the time that importing takes
    main = loaded(name)
    gc.freeze()
    gc.enable()
    from nbx.runtime.process import run, start_logging

    start_logging(settings)
    return run(main(settings))


def loaded(name: str) -> Main:
    """Import all that one of `PROCESSES` needs, and return what runs it."""
    with absent("opentelemetry"):  # or redis-py imports all of it for metrics of its own
        import_module("redis.asyncio")
    match name:
        case "api":
            from nbx.api.server import serve

            return serve
        case "learner":
            from nbx.runtime.learner_process import learn

            return learn
        case _:
            from nbx.runtime.keeper_process import keep

            return keep
