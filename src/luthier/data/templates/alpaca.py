# SPDX-License-Identifier: Apache-2.0
"""Stanford Alpaca's headings, `### Instruction:` and `### Response:`, after its opening sentence."""

END = "eos_token"
TEMPLATE = r"""{%- if messages[0]['role'] != 'system' -%}
{{ 'Below is an instruction that describes a task. ' }}
{{- 'Write a response that appropriately completes the request.\n\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ message['content'] + '\n\n' }}
{%- elif message['role'] == 'user' -%}
{{ '### Instruction:\n' + message['content'] + '\n\n' }}
{%- elif message['role'] == 'assistant' -%}
{{ '### Response:\n' + message['content'] + eos_token + '\n\n' }}
{%- else -%}
{{ raise_exception('no role ' + message['role'] + ' in the alpaca template') }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '### Response:\n' }}{%- endif -%}
"""
