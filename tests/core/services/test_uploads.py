import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.services.uploads import InvalidDatasetName, Upload, name_of

MIB = 2**20


@pytest.mark.parametrize("name", ["", "A", "a/b", "ds_x", "a" * 65, "a\n", "-a"])
def test_a_name_that_can_be_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidDatasetName):
        name_of(Upload(filename="a.jsonl", name=name))


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("huanhuan.json", "huanhuan"),
        ("我的.jsonl", "dataset"),
        ("", "dataset"),
        ("../a b.jsonl", "a-b"),
        ("C:\\x\\Rows (1).jsonl", "rows-1"),
        ("ds_1.json", "ds-1"),
        ("a\0\n.jsonl", "a"),
        ("a" * 300, "a" * 64),
    ],
)
def test_the_file_gives_the_name(filename: str, name: str) -> None:
    assert name_of(Upload(filename=filename)) == name


MEASURE = """
import asyncio, json, os, sys, time
from core.services.uploads import Upload, UploadLimits, take_in
from core.storage.objects import Store

ROW = '{"instruction": "%s %d", "input": "", "output": "%s"}\\n'
TEXTS = "雨下了一整天了，檐下的两只麻雀还在等着雨停下来", "嘘，小点声，别惊着它们，它们也在等雨停下"

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

CHUNK = "".join(ROW % (TEXTS[0], at, TEXTS[1]) for at in range(400)).encode()

async def rows(size):
    for _ in range(size // len(CHUNK) + 1):
        yield CHUNK

async def main(size, url):
    store = Store.open(url)
    limits = UploadLimits(bytes=2**33, validation_wait_s=60)
    await take_in(rows(10**6), describe=lambda: Upload(filename="warm"), store=store, limits=limits)
    before, peak, gaps = resident(), 0, []
    async def watch():
        nonlocal peak
        while True:
            asked = time.perf_counter()
            await asyncio.sleep(0.005)
            gaps.append(time.perf_counter() - asked - 0.005)
            peak = max(peak, resident())
    watching = asyncio.create_task(watch())
    arrived = await take_in(rows(size), describe=lambda: Upload(filename="x"), store=store, limits=limits)
    watching.cancel()
    gaps.sort()
    print(json.dumps({"bytes": arrived.received.bytes, "grown": peak - before, "p99_s": gaps[len(gaps) * 99 // 100],
                      "rows": arrived.inspection.summary.rows, "cpu_s": time.process_time()}))

asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
"""


def test_memory_stays_flat_and_the_event_loop_free_while_a_large_file_arrives(tmp_path: Path) -> None:
    size = 200 * 10**6
    command = [sys.executable, "-c", MEASURE, str(size), (tmp_path / "store").as_uri()]

    ran = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240)

    measured = json.loads(ran.stdout)
    assert measured["bytes"] >= size
    assert measured["rows"] > 10**6
    assert measured["grown"] < 64 * MIB
    assert measured["p99_s"] < 0.05
