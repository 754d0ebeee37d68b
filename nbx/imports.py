"""Importing libraries without what they bring along and nbx never uses: it is most of a process's start.

Measured with `python -X importtime`; `tests/architecture/test_imports.py` holds what is gained. Modules that are
imported already stay as they are, and afterwards all can be imported as ever.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def absent(*names: str) -> Iterator[None]:
    """Import what comes as if these modules were not installed.

    Examples
    --------
    >>> with absent("tabnanny"):
    ...     import tabnanny
    Traceback (most recent call last):
    ModuleNotFoundError: import of tabnanny halted; None in sys.modules
    """
    with _in_place(dict.fromkeys(names)):
        yield


@contextmanager
def hollow(*names: str) -> Iterator[None]:
    """Import what comes as if there were nothing in these modules."""
    with _in_place({name: ModuleType(name) for name in names}):
        yield


@contextmanager
def deferred(*names: str) -> Iterator[None]:
    """Import what comes without these modules; the functions it takes from them import theirs when they are called.

    Examples
    --------
    >>> with deferred("graphlib"):
    ...     from graphlib import TopologicalSorter
    >>> "graphlib" in sys.modules, list(TopologicalSorter({"b": {"a"}}).static_order())
    (False, ['a', 'b'])
    """
    with _in_place({name: _Deferred(name) for name in names}):
        yield


class _Deferred(ModuleType):
    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)
        return partial(_called, self.__name__, name)


def _called(module: str, name: str, *args: Any, **more: Any) -> Any:
    return getattr(import_module(module), name)(*args, **more)


@contextmanager
def _in_place(modules: Mapping[str, Any]) -> Iterator[None]:
    added = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(added)
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]
