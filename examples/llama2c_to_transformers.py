# SPDX-License-Identifier: Apache-2.0
"""Turn a llama2.c checkpoint and its tokenizer into a transformers folder that Luthier trains.

    python examples/llama2c_to_transformers.py checkpoint.bin tokenizer.bin OUTPUT

Reads versions 0 (seven numbers, then weights) and 1 (magic `ak42`, 256-byte header). llama2.c rotates neighbouring
pairs of a head's numbers, transformers its halves: the rows of wq and wk are put in the other order.
"""

from __future__ import annotations

import argparse
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

MAGIC = 0x616B3432


@dataclass(frozen=True)
class Shape:
    """The header: seven numbers."""

    dim: int
    hidden_dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    vocab_size: int
    max_seq_len: int

    @property
    def kv_dim(self) -> int:
        """Width of the keys."""
        return self.dim * self.n_kv_heads // self.n_heads


def read_checkpoint(path: Path) -> tuple[Shape, dict[str, np.ndarray]]:
    """The header and the weights by llama2.c's names, float32.

    Raises:
        ValueError: The file is neither version 0 nor version 1 of the format.
    """
    data = path.read_bytes()
    first = struct.unpack_from("<I", data)[0]
    version = struct.unpack_from("<i", data, 4)[0] if first == MAGIC else 0
    if version not in (0, 1):
        raise ValueError(f"{path}: version {version}; versions 0 and 1 can be read")
    shape = Shape(*struct.unpack_from("<7i", data, 8 if version else 0))
    numbers = np.frombuffer(data, "<f4", offset=256 if version else 28)
    if shape.vocab_size < 0:
        raise ValueError(f"{path}: an untied classifier; only tied heads can be read")
    weights: dict[str, np.ndarray] = {}
    at = 0
    for name, size in layout(shape, version):
        count = int(np.prod(size))
        if at + count > len(numbers):
            raise ValueError(f"{path}: ends inside {name}; is it a llama2.c checkpoint?")
        weights[name] = numbers[at : at + count].reshape(size)
        at += count
    return shape, weights


def layout(s: Shape, version: int) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order of the file."""
    n = s.n_layers
    embedding = ("embedding", (s.vocab_size, s.dim))
    keys = [("wk", (n, s.kv_dim, s.dim)), ("wv", (n, s.kv_dim, s.dim))]
    attention = [("wq", (n, s.dim, s.dim)), *keys, ("wo", (n, s.dim, s.dim))]
    mlp = [("w1", (n, s.hidden_dim, s.dim)), ("w2", (n, s.dim, s.hidden_dim)), ("w3", (n, s.hidden_dim, s.dim))]
    norms = [("attention_norm", (n, s.dim)), ("ffn_norm", (n, s.dim)), ("norm", (s.dim,))]
    if version == 1:
        return [*norms, embedding, *attention, *mlp]
    return [embedding, norms[0], *attention, norms[1], *mlp, norms[2]]


def build_model(s: Shape, weights: dict[str, np.ndarray]) -> LlamaForCausalLM:
    """The same network in transformers."""
    config = LlamaConfig(
        hidden_size=s.dim,
        intermediate_size=s.hidden_dim,
        num_hidden_layers=s.n_layers,
        num_attention_heads=s.n_heads,
        num_key_value_heads=s.n_kv_heads,
        vocab_size=s.vocab_size,
        max_position_embeddings=s.max_seq_len,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = LlamaForCausalLM(config)
    state = {"model.embed_tokens.weight": weights["embedding"], "model.norm.weight": weights["norm"]}
    names = {
        "wv": "self_attn.v_proj",
        "wo": "self_attn.o_proj",
        "w1": "mlp.gate_proj",
        "w2": "mlp.down_proj",
        "w3": "mlp.up_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    }
    for i in range(s.n_layers):
        layer = f"model.layers.{i}."
        state |= {f"{layer}{there}.weight": weights[here][i] for here, there in names.items()}
        state[f"{layer}self_attn.q_proj.weight"] = halves(weights["wq"][i], s.n_heads)
        state[f"{layer}self_attn.k_proj.weight"] = halves(weights["wk"][i], s.n_kv_heads)
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in state.items()})
    return model


def halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows from neighbouring pairs to halves, head by head."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def build_tokenizer(path: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """llama2.c's tokenizer.bin (pieces with scores) as a fast tokenizer: merges in the order of their scores."""
    data = path.read_bytes()
    pieces: list[str] = []
    scores: list[float] = []
    at = 4
    for _ in range(vocab_size):
        score, length = struct.unpack_from("<fi", data, at)
        pieces.append(data[at + 8 : at + 8 + length].decode("utf-8").replace(" ", "▁"))
        scores.append(score)
        at += 8 + length
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    ids = {piece: number for number, piece in enumerate(pieces)}
    ranked = sorted((i for i in range(259, vocab_size) if len(pieces[i]) > 1), key=lambda i: -scores[i])
    merges = [
        (piece[:cut], piece[cut:])
        for piece in (pieces[i] for i in ranked)
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    core = Tokenizer(BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    core.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    core.add_special_tokens([AddedToken(word, special=True) for word in pieces[:3]])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def main() -> None:
    """Read, convert, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    shape, weights = read_checkpoint(args.checkpoint)
    build_model(shape, weights).save_pretrained(args.output)
    build_tokenizer(args.tokenizer, shape.vocab_size).save_pretrained(args.output)
    print(f"{args.output}: {shape}")


if __name__ == "__main__":
    main()
