"""What is here and what is missing: devices with reasons, problems with remedies, proofs."""

from __future__ import annotations

from langchain_gpu.doctor.draw import render
from langchain_gpu.doctor.proofs import Proof, prove
from langchain_gpu.doctor.redact import redact
from langchain_gpu.doctor.report import report

__all__ = ["Proof", "prove", "redact", "render", "report"]
