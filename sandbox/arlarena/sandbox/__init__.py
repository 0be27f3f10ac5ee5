r"""Runs programs written by a language model. These programs can only compute and print.

    sandbox = ForkSandbox(ForkSettings())
    sandbox.run("print(2**100)").stdout          -> "1267650600228229401496703205376\n"

A *zygote* is a process that has loaded numpy, scipy and sympy. Each execution is a fork of the zygote. The fork first
gives up its rights (`lockdown`) and then reads the program. A fork takes some milliseconds; a new Python needs half a
second for its imports. The result of an execution consists of the program's output in two pipes and the exit status
from the kernel.
"""
