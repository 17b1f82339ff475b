"""The rows of a JSONL file packed otherwise: gzip around the same lines, or a Parquet file of the same columns."""

import gzip
import shutil
from pathlib import Path
from typing import Final

import pyarrow.json
import pyarrow.parquet

BLOCK_BYTES: Final = 2**24
"""Of JSONL; each block becomes one row group."""
LEVEL: Final = 1


def gzipped(source: Path) -> Path:
    """Write the file next to `source`."""
    target = source.with_suffix(".jsonl.gz")
    with source.open("rb") as lines, gzip.open(target, "wb", compresslevel=LEVEL) as packed:
        shutil.copyfileobj(lines, packed, BLOCK_BYTES)
    return target


def parquet(source: Path) -> Path:
    """Write the file next to `source`, packed by Snappy as pyarrow does unless told."""
    target = source.with_suffix(".parquet")
    options = pyarrow.json.ReadOptions(block_size=BLOCK_BYTES)
    with (
        pyarrow.json.open_json(source, read_options=options) as batches,
        pyarrow.parquet.ParquetWriter(target, batches.schema) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)
    return target
