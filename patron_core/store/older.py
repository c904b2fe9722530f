"""Reading a database of before: what newer migrations added to it reads as its default, and is not written.

The code knows one schema, its own. On an older database each statement is rewritten before it is sent: a column that is
not there yet is its server default or null, a table that is not there is an empty one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, Connection, Engine, FromClause, Table, event
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import Insert, UpdateBase

from patron_core.store.schema import metadata

_NOTHING = sa.select(sa.literal(1)).where(sa.false())


def read_as_ours(engine: Engine, conn: Connection) -> None:
    """From now on, statements over `engine` find all that the schema has. Writes leave out what has no place."""
    lacking = _lacking(conn)
    stand_ins = {table: _stand_in(table, missing) for table, missing in lacking.items()}

    @event.listens_for(engine, "before_execute", retval=True)
    def rewrite(_conn: Any, statement: Any, many: Any, one: Any, _options: Any) -> tuple[Any, Any, Any]:
        if isinstance(statement, UpdateBase):
            missing = lacking.get(statement.table, frozenset()) if isinstance(statement.table, Table) else frozenset()
            if missing == {column.key for column in statement.table.columns}:
                return _NOTHING, [], {}
            statement = _without(statement, missing, _replacing(stand_ins))
            return statement, [_kept(row, missing) for row in many], _kept(one, missing)
        if isinstance(statement, sa.ClauseElement):
            statement = visitors.replacement_traverse(statement, {}, _replacing(stand_ins))
        return statement, many, one


def _lacking(conn: Connection) -> dict[Table, frozenset[str]]:
    """The columns of each table that are not there; all of them where the table is not."""
    inspector = sa.inspect(conn)
    there = set(inspector.get_table_names())
    found = {}
    for table in metadata.tables.values():
        has = {column["name"] for column in inspector.get_columns(table.name)} if table.name in there else set()
        if missing := frozenset(column.key for column in table.columns if column.name not in has):
            found[table] = missing
    return found


def _stand_in(table: Table, missing: frozenset[str]) -> FromClause:
    """The table as it would be after a migration."""
    columns = [_default(column).label(column.key) if column.key in missing else column for column in table.columns]
    query = sa.select(*columns)
    if len(missing) == len(table.columns):
        query = query.where(sa.false())
    return query.subquery(table.name)


def _default(column: Column[Any]) -> sa.ColumnElement[Any]:
    default = getattr(column.server_default, "arg", None)
    value = sa.literal_column(default.text) if isinstance(default, sa.TextClause) else sa.literal(default)
    return sa.cast(sa.null() if default is None else value, column.type)


def _replacing(stand_ins: Mapping[Table, FromClause]) -> Callable[..., Any]:
    def replace(element: Any, **_: Any) -> Any:
        if isinstance(element, Table):
            return stand_ins.get(element)
        if isinstance(element, Column) and element.table in stand_ins:
            return stand_ins[element.table].c[element.key]
        return None

    return replace


def _without(statement: Any, missing: frozenset[str], replace: Callable[..., Any]) -> Any:
    """A write that names none of the missing columns. Its conditions may read them, or other tables."""
    table = statement.table

    def here(element: Any, **_: Any) -> Any:
        if isinstance(element, Column) and element.table is table:
            return _default(element) if element.key in missing else element
        return replace(element)

    written = statement._clone()
    if getattr(written, "_values", None):
        kept = {key: value for key, value in written._values.items() if getattr(key, "key", key) not in missing}
        written._values = sa.util.immutabledict(kept)
    if not isinstance(written, Insert):
        written._where_criteria = tuple(
            visitors.replacement_traverse(each, {}, here) for each in written._where_criteria
        )
    if written._returning:
        columns = [column for each in written._returning for column in getattr(each, "columns", [each])]
        written._returning = tuple(
            _default(column).label(column.key) if column.key in missing else column for column in columns
        )
    return written


def _kept(row: Mapping[str, Any], missing: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in missing}
