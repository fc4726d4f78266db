# SPDX-License-Identifier: Apache-2.0
"""Gemma's `<start_of_turn>user ... <end_of_turn>`; a system prompt stands before the first question."""

END = "<end_of_turn>"
TEMPLATE = r"""{%- set state = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set state.system = message['content'] + '\n\n' -%}
{%- elif message['role'] == 'user' -%}
{{ '<start_of_turn>user\n' + state.system + message['content'] + '<end_of_turn>\n' }}
{%- set state.system = '' -%}
{%- elif message['role'] == 'assistant' -%}
{{ '<start_of_turn>model\n' + message['content'] + '<end_of_turn>\n' }}
{%- else -%}
{{ raise_exception('no role ' + message['role'] + ' in the gemma template') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}
"""
