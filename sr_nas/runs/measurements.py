"""Measurements that are kept as they are made, so that none is made twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sr_nas.errors import UserError
from sr_nas.runs.files import lock

MEASUREMENTS = "measurements.jsonl"


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that differ where the parts, all JSON-ready, differ."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's content.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            content = hashlib.sha256()
            while block := stream.read(1 << 20):
                content.update(block)
            return content.hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error


class Measurements:
    """Records by key, each written as one line of JSON as soon as it is added; a later one of a key replaces it."""

    def __init__(self, file: Path, stream: Any, records: dict[str, dict[str, Any]]) -> None:
        self._file, self._stream, self._records = file, stream, records

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the record of a key, or ``None``."""
        return self._records.get(key)

    def add(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """Write a record and return it."""
        self._stream.write(json.dumps({"key": key, **record}) + "\n")
        self._stream.flush()
        self._records[key] = record
        return record


@contextmanager
def measurements(folder: Path) -> Iterator[Measurements]:
    """Open the measurements of a folder; no other process can until the block ends.

    A half-written last line, left by a kill, is dropped.

    Raises:
        UserError: another process is measuring there, or a line is damaged.
    """
    file = folder / MEASUREMENTS
    with file.open("a", encoding="utf-8") as stream:
        try:
            lock(stream)
        except BlockingIOError as error:
            raise UserError(
                f"another process is measuring in {folder}. Wait for it, or give this benchmark another name."
            ) from error
        content = file.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            stream.truncate(whole)
        records = {}
        try:
            for line in content[:whole].decode().splitlines():
                record = json.loads(line)
                records[record.pop("key")] = record
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{file} is damaged: {error}. Delete it to measure everything again.") from error
        yield Measurements(file, stream, records)
