# SPDX-License-Identifier: Apache-2.0
"""Vicuna 1.1, `USER: ... ASSISTANT: ...`, after its opening sentences; eos_token ends an answer."""

END = "eos_token"
TEMPLATE = r"""{%- if messages[0]['role'] != 'system' -%}
{{ 'A chat between a curious user and an artificial intelligence assistant. ' }}
{{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ message['content'] + ' ' }}
{%- elif message['role'] == 'user' -%}
{{ 'USER: ' + message['content'] }}
{%- elif message['role'] == 'assistant' -%}
{{ ' ASSISTANT: ' + message['content'] + eos_token }}
{%- else -%}
{{ raise_exception('no role ' + message['role'] + ' in the vicuna template') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ ' ASSISTANT:' }}{%- endif -%}
"""
