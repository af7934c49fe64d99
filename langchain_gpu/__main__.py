"""`python -m langchain_gpu` is `langchain-gpu`."""

from langchain_gpu.cli import main

main()
