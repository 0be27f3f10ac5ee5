r"""Runs programs written by a language model; they can only compute and print.

    sandbox = ForkSandbox(ForkSettings())
    sandbox.run("print(2**100)").stdout          -> "1267650600228229401496703205376\n"

A *zygote* process has loaded numpy, scipy and sympy. Each execution is a fork of it that locks itself down before it
reads the program (`lockdown`). This takes some milliseconds, while a new Python needs half a second for its imports.
The result is what the program wrote into two pipes, and the exit status from the kernel; nothing else is trusted.
"""
