# SPDX-License-Identifier: Apache-2.0
"""Small recipes in other tools' keys, written for these tests."""

from __future__ import annotations

from pathlib import Path

#: Real recipes and data lie in a folder beside the checkout on some machines; tests that read them skip elsewhere.
SHARED = next((p / "shared" / "data" for p in Path(__file__).parents if (p / "shared" / "data").is_dir()), Path("none"))

RSLORA = """
model_name_or_path: some/chat-model
torch_dtype: auto
use_flash_attention_2: true
use_peft: true
lora_r: 256
lora_alpha: 256
lora_dropout: 0.1
lora_target_modules: [q_proj, k_proj, o_proj, up_proj, gate_proj]
chat_template: "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token }}{% endfor %}"
dataset_mixer: {some/preferences: 1.0}
dataset_splits: [train_prefs, test_prefs]
preprocessing_num_workers: 12
bf16: true
beta: 0.1
do_eval: true
evaluation_strategy: steps
eval_steps: 100
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
hub_model_id: chat-model-rslora
learning_rate: 5.0e-7
log_level: info
logging_steps: 10
lr_scheduler_type: linear
max_length: 1024
max_prompt_length: 512
num_train_epochs: 1
optim: adafactor
output_dir: runs/rslora
per_device_train_batch_size: 12
per_device_eval_batch_size: 8
push_to_hub: false
save_strategy: "no"
save_total_limit: null
seed: 42
warmup_ratio: 0.1
report_to: [tensorboard]
run_name: rslora
"""

TRL_SFT = """
model_name_or_path: some/base-model
use_flash_attention_2: true
dataset_mixer: {some/chats: 0.5, other/chats: 1}
dataset_splits: [train_sft, test_sft]
max_seq_length: 64
do_eval: true
evaluation_strategy: epoch
learning_rate: 2.0e-5
num_train_epochs: 2
save_strategy: epoch
torch_dtype: float32
"""

TRL_DPO = """
model_name_or_path: some/chat-model
dataset_name: some/pairs
dataset_test_split: null
use_peft: true
lora_r: 8
lora_alpha: 16
lora_target_modules: all-linear
attn_implementation: sdpa
beta: 0.05
optim: adamw_torch
gradient_checkpointing_kwargs: {use_reentrant: false}
output_dir: runs/dpo
"""

LLAMAFACTORY = """
model_name_or_path: some/base-model
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 4
lora_target: q_proj,v_proj
dataset: lists,chats
template: qwen
cutoff_len: 128
max_samples: 10
overwrite_cache: true
output_dir: saves/lora
plot_loss: true
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
"""

AXOLOTL = """
base_model: some/base-model
load_in_8bit: false
load_in_4bit: false
datasets:
  - {path: some/instructions, type: alpaca}
dataset_prepared_path:
val_set_size: 0.0
output_dir: ./outputs/lora
sequence_len: 512
sample_packing: true
pad_to_sequence_len: true
adapter: lora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
wandb_project: first
wandb_entity: me
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 0.0002
train_on_inputs: false
bf16: auto
tf32: false
gradient_checkpointing: true
flash_attention: true
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
deepspeed:
special_tokens:
"""
