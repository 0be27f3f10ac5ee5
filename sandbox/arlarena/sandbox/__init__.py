r"""Runs programs written by a language model. These programs can only compute and print.

    sandbox = ForkSandbox(ForkSettings())
    sandbox.run("print(2**100)").stdout          -> "1267650600228229401496703205376\n"

A *zygote* is a process that has loaded numpy, scipy and sympy. Each program runs in its own fork of the zygote. The
fork first gives up its rights (`lockdown`) and then runs the program. A fork takes some milliseconds; a new Python
process needs half a second for its imports. The result of an execution contains only the program's output, which the
sandbox reads from two pipes, and facts that the kernel reports, such as the exit status.
"""
