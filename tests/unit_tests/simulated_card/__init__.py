"""Two NVIDIA cards that are not here.

Tensors say that they are on `cuda:0` or `cuda:1`, and are computed by the CPU. torch itself sends
every operation here, so that what is tested is the package as it runs on cards: what is moved
where, in which order, and what remains. As on a card, tensors of two devices do not mix, memory
ends, and a recording allows no wait; each with the exception that torch raises. What it cannot show
is speed, and whether the real kernels compute the same.

It changes torch for the whole process: `cases.py` is run as a process of its own.
"""
