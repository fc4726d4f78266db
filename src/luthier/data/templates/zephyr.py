# SPDX-License-Identifier: Apache-2.0
"""Zephyr's marks, `<|user|>` and `<|assistant|>` on lines of their own; eos_token ends a turn."""

END = "eos_token"
TEMPLATE = r"""{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}
"""
