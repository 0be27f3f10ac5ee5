r"""Runs programs that a language model wrote, and lets them do nothing but compute and print.

    sandbox = ForkSandbox(ForkSettings())
    sandbox.run("print(2**100)").stdout          -> "1267650600228229401496703205376\n"

A *zygote* process has numpy, scipy and sympy in memory. Each execution is a fork of it that locks itself down before it
sees the program (`lockdown`): some milliseconds, where a fresh Python needs half a second for its imports. What comes
back is what the program wrote into two pipes, and what the kernel says of how it ended; nothing else is believed.
"""
