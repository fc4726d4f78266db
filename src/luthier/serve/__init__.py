# SPDX-License-Identifier: Apache-2.0
"""Runs behind an OpenAI-compatible HTTP server, and a chat in the terminal: many adapters on one base, one batch."""
