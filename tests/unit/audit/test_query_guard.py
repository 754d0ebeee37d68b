"""What SQL may not do: read anything but the views, change anything, or say where this machine keeps things."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbx.audit.live_tail import Readable
from nbx.audit.query import LogQuery
from nbx.audit.query_guard import checked_statement, quoted
from nbx.audit.reading import Window
from nbx.errors import Invalid, NbxError

REFUSED = (
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_parquet('/tmp/x.parquet')",
    "SELECT * FROM parquet_metadata('/tmp/x.parquet')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM 'x.parquet'",
    'SELECT * FROM "/etc/hosts"',
    "SELECT * FROM 'https://example.com/x.parquet'",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM/**/read_csv/**/('/etc/passwd')",
    "SELECT * FROM READ_CSV('/etc/passwd')",
    "SELECT * FROM \"read_csv\"('/etc/passwd')",
    "SELECT * FROM system.main.read_csv('/etc/passwd')",
    "SELECT (SELECT count(*) FROM read_text('/etc/passwd'))",
    "WITH a AS (SELECT * FROM read_text('/etc/passwd')) SELECT * FROM a",
    "WITH RECURSIVE a AS (SELECT 1 UNION ALL SELECT 1 FROM read_text('/etc/passwd')) SELECT * FROM a",
    "SELECT * FROM range(3) r, LATERAL (SELECT * FROM glob('/*'))",
    "SELECT [x FOR x IN (SELECT list(content) FROM read_text('/etc/passwd'))]",
    "FROM query('SELECT * FROM read_text(''/etc/passwd'')')",
    "FROM query_table('kept')",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM python_arrow_scan(1, 2, 3)",
    "SELECT * FROM python_map_function(1, 2)",
    "SELECT * FROM seq_scan('x')",
    "SELECT * FROM json_execute_serialized_sql('x')",
    "COPY (SELECT 1) TO '/tmp/stolen.csv'",
    "COPY decisions FROM '/etc/passwd'",
    "EXPORT DATABASE '/tmp/stolen'",
    "IMPORT DATABASE '/tmp/stolen'",
    "ATTACH '/tmp/x.db'",
    "ATTACH ':memory:' AS other",
    "DETACH memory",
    "USE system",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '/tmp/x.duckdb_extension'",
    "SET threads = 64",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "PRAGMA version",
    "PRAGMA database_list",
    "CALL pragma_version()",
    "CHECKPOINT",
    "CREATE TABLE x (a INT)",
    "CREATE OR REPLACE VIEW decisions AS SELECT 1",
    "CREATE FUNCTION f(a) AS a",
    "INSERT INTO live SELECT * FROM live",
    "DELETE FROM live",
    "UPDATE live SET kind = 'x'",
    "DROP VIEW decisions",
    "BEGIN",
    "PREPARE a AS SELECT 1",
    "EXECUTE a",
    "DEALLOCATE a",
    "VACUUM",
    "EXPLAIN SELECT 1",
    "EXPLAIN ANALYZE SELECT 1",
    "CREATE SECRET (TYPE s3)",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP VIEW decisions",
    "SELECT 1 -- \n; COPY (SELECT 1) TO '/tmp/x'",
    "/* SELECT 1 */ SET threads = 2",
    "",
    ";",
    "-- nothing",
    "SELECT 1\0",
    "SELECT '\ud800'",
    "SELECT current_setting('allowed_paths')",
    "SELECT current_setting('temp_directory')",
    "SELECT getenv('HOME')",
    "SELECT getvariable('x')",
    "SELECT nextval('x')",
    "SELECT sleep_ms(10)",
    "SELECT pg_sleep(10)",
    "SELECT write_log('x')",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM duckdb_views()",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM pragma_table_info('decisions')",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM pg_catalog.pg_tables",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM kept",
    "SELECT * FROM live",
    "SELECT * FROM memory.main.live",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
    "SELECT * FROM secret_table",
    "SELECT * FROM connection",
    "SELECT * FROM test_all_types()",
    "SELECT * FROM repeat_row(1, num_rows = 10)",
)
ALLOWED = (
    "SELECT 1",
    "SELECT 1;",
    "/* a */ SELECT 1 -- b",
    "FROM decisions",
    "VALUES (1)",
    "DESCRIBE slots",
    "SUMMARIZE removed",
    "WITH d AS (SELECT * FROM decisions) SELECT count(*) FROM d, range(3), unnest([1, 2])",
    "WITH RECURSIVE t AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM t WHERE a < 5) SELECT sum(a) FROM t",
    "SELECT count(*) FROM main.decisions",
    'SELECT "read_csv" FROM (SELECT 1 AS read_csv)',
    "SELECT 'COPY x TO y; SET a = b'",
    "SELECT customer_id, row_number() OVER (PARTITION BY customer_id ORDER BY at) FROM decisions",
    "SELECT at, s.group, percentile_cont(0.5) WITHIN GROUP (ORDER BY propensity) FROM slots s GROUP BY at, group",
    "SELECT json_extract(context, '$.hour'), context ->> 'hour' FROM decisions",
    "SELECT list_transform(slots, lambda s: s.action) FROM decisions WHERE at > now() - INTERVAL 1 HOUR",
)


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB as a query has it, with all views and locked."""
    query = LogQuery(Readable(tmp_path_factory.mktemp("archive"), (), []), Window(0, 1 << 50), 1_767_225_600_000)
    everything = " ".join(__import__("nbx.audit.query_views", fromlist=["VIEWS"]).VIEWS)
    with query._connected(everything, [], by_name=False, asking=False) as opened:
        yield opened


@pytest.mark.parametrize("sql", REFUSED)
def test_what_is_not_a_question_to_the_log_is_refused(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    with pytest.raises(Invalid) as caught:
        checked_statement(connection, sql)
    assert caught.value.field == "sql"


@pytest.mark.parametrize("sql", ALLOWED)
def test_questions_are_answered(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    connection.execute(checked_statement(connection, sql)).fetchall()


@pytest.mark.parametrize("sql", [s for s in REFUSED if s[:6] in ("SELECT", "FROM q") and "/" in s and "**" not in s])
def test_duckdb_itself_reads_no_file_either(connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    with pytest.raises((duckdb.Error, UnicodeEncodeError)):
        connection.execute(sql).fetchall()


def test_duckdb_itself_sees_no_variable_of_ours_and_writes_nothing(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    secret_table = duckdb.sql("SELECT 1")
    assert secret_table is not None
    for sql in (
        "SELECT * FROM secret_table",
        f"COPY (SELECT 1) TO '{tmp_path}/x.csv'",
        f"ATTACH '{tmp_path}/x.db'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET python_enable_replacements = true",
        "INSTALL httpfs",
    ):
        with pytest.raises(duckdb.Error):
            connection.execute(sql).fetchall()
    assert list(tmp_path.iterdir()) == []


def test_a_very_long_query_is_refused(connection: duckdb.DuckDBPyConnection) -> None:
    with pytest.raises(Invalid, match="characters"):
        checked_statement(connection, f"SELECT '{'x' * 20_000}'")
    for deep in ("SELECT " + "(" * 9000 + "1" + ")" * 9000, "SELECT " + "-" * 9000 + "1", "SELECT 1" + " + 1" * 4900):
        try:
            checked_statement(connection, deep)
        except NbxError as error:
            assert error.code in ("sql_invalid", "sql_refused")  # noqa: PT017 - either is fine, a crash is not


_PIECES = st.sampled_from(
    [
        "SELECT",
        "FROM",
        "at",
        "group",
        "by",
        "time",
        "zone",
        "'at'",
        '"group"',
        "--\n",
        "/* at */",
        "(",
        ")",
        ",",
        "é",
        "1",
        ".",
        " ",
        "within",
    ]
)


@given(st.lists(_PIECES, max_size=12).map(" ".join))
def test_quoting_columns_changes_nothing_but_quotes(sql: str) -> None:
    told = quoted(sql)
    assert told.replace('"', "") == sql.replace('"', "")
    assert quoted(told) == told
