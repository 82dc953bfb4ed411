"""Reads a stream with DuckDB, by the query given, and with pyarrow, from the files given.

usage: engines.py QUERY_FILE LIST_OF_FILES STREAM_UID

Prints a line for each engine: name, records, bytes of their values, SHA-256 of all that they hold.
"""

import datetime
import hashlib
import struct
import sys

import duckdb
import pyarrow
import pyarrow.parquet

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MICROSECOND = datetime.timedelta(microseconds=1)


def add_number(digest, number):
    digest.update(struct.pack("<q", number))


def add_bytes(digest, value):
    """Absent is not the same as empty."""
    add_number(digest, -1 if value is None else len(value))
    digest.update(value or b"")


def summary(engine, rows):
    digest, count, value_bytes = hashlib.sha256(), 0, 0
    for row in rows:
        count += 1
        value_bytes += len(row["value"])
        add_number(digest, row["offset"])
        add_number(digest, (row["ts"] - EPOCH) // MICROSECOND)
        add_bytes(digest, row["msg_id"])
        add_bytes(digest, row["key"])
        headers = row["headers"] or []
        add_number(digest, len(headers))
        for header in headers:
            add_bytes(digest, header["key"].encode())
            add_bytes(digest, header["value"])
        add_bytes(digest, row["value"])
    print(engine, count, value_bytes, digest.hexdigest())


def duckdb_rows(query):
    result = duckdb.sql(query)
    for row in result.fetchall():
        yield dict(zip(result.columns, row))


def pyarrow_rows(files, uid):
    """A bundle holds other streams too."""
    own = [("stream_uid", "=", uid)]
    tables = [pyarrow.parquet.read_table(file, filters=own, partitioning=None) for file in files]
    return pyarrow.concat_tables(tables).sort_by("offset").to_pylist()


query_file, list_file, stream_uid = sys.argv[1:]
summary("duckdb", duckdb_rows(open(query_file).read()))
summary("pyarrow", pyarrow_rows(open(list_file).read().split("\n")[:-1], stream_uid))
