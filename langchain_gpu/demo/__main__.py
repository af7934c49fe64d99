"""`python -m langchain_gpu.demo` is `langchain-gpu demo`."""

import sys

from langchain_gpu.cli import main

main(["demo", *sys.argv[1:]])
