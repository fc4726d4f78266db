# SPDX-License-Identifier: Apache-2.0
"""Phi-3's marks, `<|user|> ... <|end|>` and `<|assistant|> ... <|end|>`."""

END = "<|end|>"
TEMPLATE = r"""{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\n' }}{%- endif -%}
"""
