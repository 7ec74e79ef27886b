"""The columns and constraints that tables are made of, and the one place where instants become numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import BigInteger, CheckConstraint, Column, Dialect, ForeignKey, Integer, MetaData, Text, TypeDecorator

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Instant(TypeDecorator[datetime]):
    """Aware UTC outside, whole Unix microseconds inside: the same on both databases, and no time zone to get wrong."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


class Length(TypeDecorator[timedelta]):
    """A timedelta outside, whole microseconds inside."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> int | None:
        return None if value is None else value // _MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> timedelta | None:
        return None if value is None else timedelta(microseconds=value)


# Every constraint has a name, so that an error names a rule and a later migration can find it on both databases.
metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)
# SQLite makes a key of plain INTEGER the row's own address; BIGINT would cost a second index.
SEQ: Final = BigInteger().with_variant(Integer, "sqlite")


def text(name: str, *, null: bool = False, **more: Any) -> Column[Any]:
    """A column of text; null only where it says so."""
    return Column(name, Text, nullable=null, **more)


def instant(name: str, *, null: bool = False) -> Column[Any]:
    """A column of instants."""
    return Column(name, Instant, nullable=null)


def key() -> Column[Any]:
    """The id of a noun, as Tx.new_id makes it."""
    return Column("id", Text, primary_key=True)


def of(table: str, name: str | None = None, *, null: bool = False) -> Column[Any]:
    """A column that points to a row of another table."""
    return Column(name or f"{table}_id", Text, ForeignKey(f"{table}.id"), nullable=null)


def one_of(column: str, *words: str) -> CheckConstraint:
    """Only these words, refused by the database itself; the words are literals of this house."""
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def rising(first: str = "opens", then: str = "closes") -> CheckConstraint:
    """No empty interval."""
    return CheckConstraint(f"{first} < {then}", name=f"{first}_before_{then}")
