#!/usr/bin/env bash
# findings/transformers_gguf_window.sh: transformers 5.24.0: from a GGUF file it takes the window of Gemma, not of Phi-3, gpt-oss,
# StarCoder2 or Qwen2.
#
# Each file says <arch>.attention.sliding_window = 7, by gguf 0.19.0's own writer. Gemma 2 and 3 get it. Phi-3, StarCoder2 and Qwen2 get no
# window at all, and gpt-oss the default of its class, 128: its entry is looked for as gpt-oss.sliding_window. Nothing is said of it. A
# Phi-3 with a window so sees all keys where it comes from a GGUF file, and the last W where it comes from its config.json.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check torch==2.13.0 transformers==5.24.0 gguf==0.19.0 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import gguf
import numpy as np
import transformers
from transformers import AutoConfig

folder = Path(sys.argv[1])
transformers.logging.set_verbosity_error()


def window(arch: str) -> int | None:
    """The window in the configuration that is made of a file with a window of 7."""
    writer = gguf.GGUFWriter(folder / f"{arch}.gguf", arch)
    writer.add_context_length(64)
    writer.add_block_count(4)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(8)
    writer.add_vocab_size(32)
    writer.add_rope_freq_base(1e4)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_sliding_window(7)
    writer.add_tensor("token_embd.weight", np.zeros((32, 16), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return AutoConfig.from_pretrained(folder, gguf_file=f"{arch}.gguf").sliding_window


print("transformers", transformers.__version__)
for arch, expected in {"gemma2": 7, "gemma3": 7, "phi3": None, "starcoder2": None, "qwen2": None, "gpt-oss": 128}.items():
    found = window(arch)
    print(f"{arch}.attention.sliding_window = 7 in the file: config.sliding_window is {found}")
    assert found == expected, "the behaviour has changed"
PYTHON
