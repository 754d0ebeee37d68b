"""What SQL over the log may say: one SELECT over the ready views, and no function that looks outside them.

DuckDB itself is locked (`nbx.audit.query`): no file but the segments, no extension, no setting. This is the second
lock, on the statement's syntax tree as DuckDB's own parser gives it: tables are the views and the query's own CTEs,
functions that return tables are the few that make rows of their arguments. So nothing depends on how a name could be
spelt, quoted or hidden in a comment, and the first lock is not what is asked first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import duckdb
import msgspec

from nbx.audit.query_views import VIEWS
from nbx.errors import Invalid, TooLarge
from nbx.limits import QUERY_LENGTH

TABLE_FUNCTIONS: Final = frozenset({"unnest", "range", "generate_series", "json_each", "json_tree"})
"""Functions that may stand where a table does."""
REFUSED_FUNCTIONS: Final = frozenset({
    "current_setting", "getvariable", "getenv", "nextval", "currval", "setval", "write_log", "current_query",
    "current_query_id", "parse_duckdb_log_message", "sleep_ms", "user_agent", "add_parquet_key",
    "json_execute_serialized_sql", "copy_database",
})  # fmt: skip
"""Functions on values that tell of the process, wait, or leave a trace."""
REFUSED_PREFIXES: Final = ("pg_", "has_", "inet_", "duckdb_", "pragma_", "read_")
_COLUMNS: Final = {"at": frozenset({"time"}), "group": frozenset({"by"})}
"""Columns that are key words of SQL → what follows them where they are key words."""


def quoted(sql: str) -> str:
    """Put quotes around the columns `at` and `group`, which are key words of SQL, where they are columns.

    Examples
    --------
    >>> quoted("SELECT at, s.group FROM slots s WHERE at > now() GROUP BY at, group")
    'SELECT "at", s."group" FROM slots s WHERE "at" > now() GROUP BY "at", "group"'
    >>> quoted("SELECT 'at' FROM t WHERE at AT TIME ZONE 'UTC' > now() -- at")
    'SELECT \\'at\\' FROM t WHERE "at" AT TIME ZONE \\'UTC\\' > now() -- at'
    """
    packed = sql.encode()
    tokens = duckdb.tokenize(sql)
    edges = [*(start for start, _ in tokens), len(packed)]
    parts: list[bytes] = []
    words = [_word(packed, edges[i], edges[i + 1]) for i in range(len(tokens))]
    done = 0
    for i, (start, kind) in enumerate(tokens):
        follows = _COLUMNS.get(words[i])
        after = words[i + 1] if i + 1 < len(tokens) else ""
        before = words[i - 1] if i else ""
        if follows is None or kind != duckdb.token_type.keyword or after in follows or before == "within":
            continue
        end = start + len(words[i])
        parts += [packed[done:start], b'"', packed[start:end], b'"']
        done = end
    return b"".join([*parts, packed[done:]]).decode()


def _word(packed: bytes, start: int, end: int) -> str:
    return packed[start:end].strip().lower().decode(errors="replace")


def checked_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    """Return the one statement of a query that may run.

    Raises
    ------
    TooLarge
        It is longer than `limits.QUERY_LENGTH`.
    Invalid
        It is no SQL, not one SELECT, or reaches for something other than the views.
    """
    if len(sql) > QUERY_LENGTH:
        raise TooLarge(f"the query has {len(sql)} characters, at most {QUERY_LENGTH} are allowed", field="sql")
    if not sql.isascii() and any("\ud800" <= letter <= "\udfff" for letter in sql):
        raise Invalid("the query is not Unicode: it holds half a surrogate pair", field="sql", code="sql_invalid")
    if "\0" in sql:
        raise Invalid("the query holds a zero character", field="sql", code="sql_invalid")
    try:
        text = quoted(sql)
        statements = connection.extract_statements(text)
    except duckdb.Error as error:
        raise Invalid(str(error), field="sql", code="sql_invalid") from None
    if len(statements) != 1:
        found = f"it holds {len(statements)} statements" if statements else "it is empty"
        raise Invalid(f"a query is one SELECT statement; {found}", field="sql", code="sql_refused")
    kind = statements[0].type.name
    if kind != "SELECT":
        raise Invalid(
            f"a query is one SELECT statement, this is {kind}: the log is only read here",
            field="sql",
            code="sql_refused",
        )
    _check_tree(_tree(connection, statements[0].query))
    return statements[0]


def _tree(connection: duckdb.DuckDBPyConnection, text: str) -> Any:
    try:
        (packed,) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchone() or ("",)
        connection.fetchall()
        tree = msgspec.json.decode(packed)
    except (duckdb.Error, msgspec.DecodeError, RecursionError) as error:
        raise Invalid(f"the query cannot be checked: {error}", field="sql", code="sql_refused") from None
    if tree.get("error"):
        raise Invalid(f"the query cannot be checked: {tree.get('error_message')}", field="sql", code="sql_refused")
    return tree["statements"]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of a tree, with no recursion to exhaust."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _check_tree(tree: Any) -> None:
    named = set(VIEWS)
    for node in _nodes(tree):
        ctes = node.get("cte_map")
        if isinstance(ctes, dict):
            named |= {each["key"].lower() for each in ctes.get("map", ())}
        if node.get("type") == "RECURSIVE_CTE_NODE":
            named.add(str(node.get("cte_name", "")).lower())
    for node in _nodes(tree):
        match node.get("type"):
            case "BASE_TABLE":
                _check_table(node, named)
            case "TABLE_FUNCTION":
                _check_table_function(node)
            case "SHOW_REF" if node.get("query") is None:
                raise _refused(f"use DESCRIBE with one of the views: {', '.join(VIEWS)}")
            case _ if node.get("class") == "FUNCTION":
                _check_function(str(node.get("function_name", "")).lower(), node.get("schema"))


def _check_table(node: dict[str, Any], named: set[str]) -> None:
    name = str(node.get("table_name", ""))
    place = [str(part) for part in (node.get("catalog_name"), node.get("schema_name")) if part]
    if place not in ([], ["main"]) or name.lower() not in named:
        shown = ".".join([*place, name])
        raise Invalid(
            f"there is no table {shown!r} here; the views are {', '.join(VIEWS)}", field="sql", code="sql_table_unknown"
        )


def _check_table_function(node: dict[str, Any]) -> None:
    name = str(node.get("function", {}).get("function_name", "")).lower()
    if name not in TABLE_FUNCTIONS:
        raise _refused(f"function {name} may not be read from; only {', '.join(sorted(TABLE_FUNCTIONS))} may")


def _check_function(name: str, schema: object) -> None:
    if name in REFUSED_FUNCTIONS or name.startswith(REFUSED_PREFIXES) or schema not in ("", None, "main"):
        raise _refused(f"function {name} is not for queries: it says nothing of the log")


def _refused(words: str) -> Invalid:
    return Invalid(words, field="sql", code="sql_refused")
