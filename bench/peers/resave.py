"""`python -m bench.peers.resave SOURCE TARGET`: each shard by torch.load, and safetensors' own save_file of it.

What a script of three lines does: no hash, no check, no fold, no sync to the disk, no verification.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file


def main(source: Path, target: Path) -> None:
    """Save every shard anew."""
    target.mkdir()
    for shard in sorted(source.glob("*.bin")):
        tensors = torch.load(shard, map_location="cpu", weights_only=True)
        save_file(tensors, target / shard.with_suffix(".safetensors").name, metadata={"format": "pt"})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
