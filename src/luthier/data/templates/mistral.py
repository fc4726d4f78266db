# SPDX-License-Identifier: Apache-2.0
"""Mistral's `[INST] ... [/INST]`, with the system prompt before the first question."""

END = "eos_token"
TEMPLATE = r"""{%- set state = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set state.system = message['content'] + '\n\n' -%}
{%- elif message['role'] == 'user' -%}
{{ '[INST] ' + state.system + message['content'] + ' [/INST]' }}
{%- set state.system = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + message['content'] + eos_token }}
{%- else -%}
{{ raise_exception('no role ' + message['role'] + ' in the mistral template') }}
{%- endif -%}
{%- endfor -%}
"""
