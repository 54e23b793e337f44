"""Rows of JSONL, CSV and Parquet files, each with the place where the user finds it in the file."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


class Row(NamedTuple):
    """One row of a file.

    Attributes:
        place: "line 7", counted from 1 with the header and empty lines, or in Parquet "row 7", counted from 0.
        values: By column; text as it is written there, or what JSON or Parquet has for it.
    """

    place: str
    values: dict[str, Any]


Complain = Callable[[str, str], None]


def read_rows(path: Path, complain: Complain) -> list[Row]:
    """Reads a file by its suffix: .jsonl, .csv (with a header, in UTF-8) or .parquet.

    Args:
        path: The file.
        complain: Gets the place ("" for the whole file) and what is wrong there with the remedy. It may raise;
            otherwise the next row is read.
    """
    readers = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
    read = readers.get(path.suffix.lower())
    if read is None:
        complain("", f"a file of another kind; give one whose name ends in {', '.join(readers)}")
        return []
    try:
        return list(read(path, complain))
    except FileNotFoundError:
        complain("", "there is no such file; give its path, absolute or from the working directory")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        complain(f"line {line}", f"not UTF-8 ({error.reason}); save the file as UTF-8")
    except (OSError, pa.ArrowException) as error:
        complain("", f"it cannot be read: {getattr(error, 'strerror', None) or error}")
    return []


def _jsonl(path: Path, complain: Complain) -> Iterator[Row]:
    # Not splitlines(), for which some characters that JSON may hold as they are end a line.
    for number, line in enumerate(path.read_bytes().decode("utf-8-sig").split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            complain(place, f"not JSON ({getattr(error, 'msg', error)}); write one object a line")
            continue
        if isinstance(values, dict):
            yield Row(place, values)
        else:
            complain(place, f"{values!r:.40} is not an object; write {{column: value, ...}}")


def _csv(path: Path, complain: Complain) -> Iterator[Row]:
    lines = csv.reader(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""), strict=True)
    header: list[str] = []
    while True:
        place = f"line {lines.line_num + 1}"
        try:
            fields = next(lines, None)
        except csv.Error as error:
            return complain(place, f"not CSV ({error}); what follows it was not read")
        if fields is None:
            return
        if not header:
            header = fields
            for name in dict.fromkeys(name for name in header if name and header.count(name) > 1):
                complain(place, f"column {name!r} is there twice; give each a name of its own")
        elif len(fields) > len(header):
            complain(place, f"{len(fields)} fields, the header has {len(header)}; put one that holds a comma in quotes")
        elif fields:
            yield Row(place, dict(zip(header, fields, strict=False)))


def _parquet(path: Path, complain: Complain) -> Iterator[Row]:
    # Of a file alone: read_table would also read a folder of them, and the folders' names as columns.
    with pq.ParquetFile(path) as file:
        for number, values in enumerate(file.read().to_pylist()):
            yield Row(f"row {number}", values)
