# SPDX-License-Identifier: Apache-2.0
"""Llama 3's headers, `<|start_header_id|>user<|end_header_id|>`; `<|eot_id|>` ends a turn."""

END = "<|eot_id|>"
TEMPLATE = r"""{%- for message in messages -%}
{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}
"""
