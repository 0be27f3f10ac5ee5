r"""Runs programs that a language model has written. The programs can only compute and print.

    sandbox = ForkSandbox(ForkSettings())
    sandbox.run("print(2**100)").stdout          -> "1267650600228229401496703205376\n"

A *zygote* is a process that has loaded numpy, scipy and sympy. Each program runs in its own fork of the zygote. The
fork first gives up its rights (`lockdown`) and then runs the program. A fork takes a few milliseconds, whereas the
imports of a new Python process take half a second. The sandbox reads the program's output from two pipes. The result of
an execution contains only this output and facts from the kernel, such as the exit status.
"""
