"""Diagnosis of this machine: devices with reasons, problems with remedies, proofs."""

from __future__ import annotations

from langchain_gpu.doctor.draw import render
from langchain_gpu.doctor.proofs import Proof
from langchain_gpu.doctor.redact import redact
from langchain_gpu.doctor.report import report
from langchain_gpu.doctor.waves import prove

__all__ = ["Proof", "prove", "redact", "render", "report"]
