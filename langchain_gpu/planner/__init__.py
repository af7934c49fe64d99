"""Memory planning: what fits where, in bytes, before anything is loaded."""

from langchain_gpu.planner.components import Chat, Component, Encoder, Index
from langchain_gpu.planner.plan import plan
from langchain_gpu.planner.policy import Policy
from langchain_gpu.planner.pools import imagined, parse_size
from langchain_gpu.planner.terms import ComponentPlan, Plan, PoolUse, Share, Term, size

__all__ = [
    "Chat",
    "Component",
    "ComponentPlan",
    "Encoder",
    "Index",
    "Plan",
    "Policy",
    "PoolUse",
    "Share",
    "Term",
    "imagined",
    "parse_size",
    "plan",
    "size",
]
