# SPDX-License-Identifier: Apache-2.0
"""OpenAI's ChatML, `<|im_start|>user ... <|im_end|>`, as Qwen and many others use it."""

END = "<|im_end|>"
TEMPLATE = r"""{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
"""
