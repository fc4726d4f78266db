# SPDX-License-Identifier: Apache-2.0
"""Where advice comes from: papers and recipes by others, our own studies, and what was counted on the spot.

Our studies ran on the built-in models (3 M and 0.8 M parameters, AMD EPYC, bfloat16, five seeds; docs/methods.md and
docs/compare.md hold every number). What they found is carried over to larger models with care, and the advice says so.
"""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """One source.

    Attributes:
        name: Short, as tables show it.
        place: An arXiv number, or a file of this project.
        on: What it was measured on, or what it is.
    """

    name: str
    place: str
    on: str

    def __str__(self) -> str:
        return f"{self.name} ({self.place})"


YOURS = "counted here"
SOURCES: dict[str, Source] = {
    "model": Source("your model", YOURS, "the configuration alone; no weights were read"),
    "rows": Source("your rows", YOURS, "tokenised with this model's tokenizer and chat template"),
    "memory": Source("memory", YOURS, "bytes of weights, states and activations; an estimate"),
    "machine": Source("the machine", YOURS, "what its processor or GPU multiplies in hardware"),
    "recipe": Source("your words", YOURS, "the recipe, or the command line"),
    "study-methods": Source("our study of methods", "studies/methods.yaml", "the built-in 3 M model, 5 seeds"),
    "study-rank": Source("our study of ranks", "studies/rank.yaml", "the built-in 3 M model, 5 seeds"),
    "study-full": Source("our study of full or LoRA", "studies/full-or-lora.yaml", "built-in 0.8 M and 3 M, 5 seeds"),
    "study-preference": Source(
        "our study of preferences", "studies/preference.yaml", "the built-in 3 M model, 5 seeds"
    ),
    "lora": Source("LoRA", "arXiv 2106.09685", "GPT-2 medium and large, GPT-3 175B, RoBERTa, DeBERTa"),
    "rslora": Source("rsLoRA", "arXiv 2312.03732", "scaling by the root of r keeps high ranks learning"),
    "qlora": Source("QLoRA", "arXiv 2305.14314", "LLaMA 7B to 65B, NF4 base"),
    "forgets": Source("LoRA Learns Less", "arXiv 2405.09673", "Llama 2 7B, code and mathematics"),
    "belle": Source("BELLE", "arXiv 2304.08109", "LLaMA 7B and 13B, 0.6 to 4 M Chinese rows, one seed"),
    "lima": Source("LIMA", "arXiv 2305.11206", "LLaMA 65B in full on 1,000 rows, 15 epochs at 1e-5"),
    "handbook": Source(
        "handbook", "huggingface/alignment-handbook", "Mistral 7B, StarCoder2 15B, SmolLM2: recipes as published"
    ),
    "instructgpt": Source("InstructGPT", "arXiv 2203.02155", "GPT-3; reward model of 6B at 9e-6, batch 64, one epoch"),
    "repeat": Source("Data-Constrained Scaling", "arXiv 2305.16264", "pretraining: up to 4 epochs cost little"),
    "dpo": Source("DPO", "arXiv 2305.18290", "beta 0.1"),
    "zephyr": Source("Zephyr", "arXiv 2310.16944", "Mistral 7B in full: DPO at 5e-7"),
    "ipo": Source("IPO", "arXiv 2310.12036", "the loss; its examples are bandits, so no rate can be taken from it"),
    "kto": Source("KTO", "arXiv 2402.01306", "1B to 30B in full; beta 0.1"),
    "orpo": Source("ORPO", "arXiv 2403.07691", "Phi-2, Llama 2 and Mistral 7B in full; 8e-6"),
    "simpo": Source("SimPO", "arXiv 2405.14734", "Mistral 7B and Llama 3 8B in full; 3e-7 to 1e-6"),
    "cpo": Source("CPO", "arXiv 2401.08417", "translation with a 13B model"),
    "houlsby": Source("Bottleneck adapters", "arXiv 1902.00751", "BERT large; 3e-5, 3e-4 and 3e-3 were tried"),
    "ia3": Source("(IA)3", "arXiv 2205.05638", "T0 3B; 3e-3"),
    "prompt": Source("Prompt tuning", "arXiv 2104.08691", "T5 up to 11B; 0.3"),
    "activations": Source("Activation recomputation", "arXiv 2205.05198", "34 bytes of a layer's width for each token"),
}
