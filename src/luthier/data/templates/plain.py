# SPDX-License-Identifier: Apache-2.0
"""`Q:` and `A:` on lines of their own, for small base models; eos_token ends an answer."""

END = "eos_token"
TEMPLATE = r"""{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ message['content'] + '\n' }}
{%- elif message['role'] == 'user' -%}
{{ 'Q: ' + message['content'] + '\n' }}
{%- elif message['role'] == 'assistant' -%}
{{ 'A: ' + message['content'] + eos_token + '\n' }}
{%- else -%}
{{ raise_exception('no role ' + message['role'] + ' in the plain template') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ 'A:' }}{%- endif -%}
"""
