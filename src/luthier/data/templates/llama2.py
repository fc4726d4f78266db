# SPDX-License-Identifier: Apache-2.0
"""Llama 2's `[INST] ... [/INST]`, with the system prompt inside the first of them."""

END = "eos_token"
TEMPLATE = r"""{%- set state = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set state.system = '<<SYS>>\n' + message['content'] + '\n<</SYS>>\n\n' -%}
{%- elif message['role'] == 'user' -%}
{{ (bos_token or '') + '[INST] ' + state.system + message['content'] + ' [/INST]' }}
{%- set state.system = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + message['content'] + ' ' + eos_token }}
{%- else -%}
{{ raise_exception('no role ' + message['role'] + ' in the llama2 template') }}
{%- endif -%}
{%- endfor -%}
"""
