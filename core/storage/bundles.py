"""DEV PLACEHOLDER, never committed."""
import hashlib, json, os
from dataclasses import dataclass
from pathlib import Path
class BrokenBundle(Exception): ...
@dataclass(frozen=True)
class Sealed:
    manifest_sha256: str
    bytes: int
def seal(folder, facts):
    files = {p.name: {"sha256": hashlib.sha256(p.read_bytes()).hexdigest(), "bytes": p.stat().st_size} for p in sorted(folder.iterdir())}
    text = json.dumps({"files": files, **facts}, sort_keys=True).encode()
    (folder/"manifest.json").write_bytes(text)
    return Sealed(hashlib.sha256(text).hexdigest(), sum(f["bytes"] for f in files.values()))
def publish(src, dst):
    os.rename(src, dst)
def verify(folder, manifest_sha256):
    try:
        text = (folder/"manifest.json").read_bytes()
        m = json.loads(text)
        for n, f in m["files"].items():
            if hashlib.sha256((folder/n).read_bytes()).hexdigest() != f["sha256"]: raise BrokenBundle(n)
    except (OSError, ValueError) as e:
        raise BrokenBundle(str(e)) from e
    if hashlib.sha256(text).hexdigest() != manifest_sha256: raise BrokenBundle("manifest")
