# SPDX-License-Identifier: Apache-2.0
"""What `gguf_llama_cpp.py` asks: prompts, texts that tokenizers may read otherwise, a conversation, kinds of models."""

from __future__ import annotations

from typing import Any

from luthier.export.held_out import TEXTS as PROSE

PROMPTS = (
    "Once upon a time", "The", "Lily and Tom went to the", "What is 12 plus 30?", "Name a colour.", "One day, a big",
    "Is 7 more than 3?", "The sun was", "Her mom said", "Write a list of", "He was very", "2 + 2 =",
)  # fmt: skip
TEXTS = (
    *PROSE, " leading", "trailing ", "two  spaces   three", "\n\nlines\n \n\tand tabs\t\t",
    "1234567890 12 3,456.78 ½ ²",
    "it's we'll I'D YOU'RE", "emoji 🐈‍⬛ 🇳🇱 👩🏽‍🚀", "naïve café", "naïve cafe\u0301 (decomposed)",
    "العربية עברית हिन्दी ไทย",
    "日本語テキスト 한국어", "a\u00a0b\u2003c\u200bd", "\r\nwindows\r\n", "x" * 70, "{\n    \"a\": [1, 2]\n}",
    "<|end|> <s> </s>",
    "!?...--==>>", "\u0000\u0001", "MixedCASE camelCaseWords snake_case_words", "https://example.org/a?b=c&d=1#e",
)  # fmt: skip
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 256, "initializer_range": 0.15}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, untied": ("llama", {"tie_word_embeddings": False}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama 3's positions": ("llama", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 16}}),
    "linear positions": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "mistral, head 32": ("mistral", {"sliding_window": None, "head_dim": 32}),
    "qwen2": ("qwen2", {}),
    "qwen3, head 32": ("qwen3", {"head_dim": 32}),
}
TURNS = "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token + '\\n' }}{% endfor %}"
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " What is 2 + 2? "},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 3 + 3?"},
]
