"""Engines that generate text: messages in, tokens out, one file per engine."""
