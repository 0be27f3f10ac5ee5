"""The Gymnasium environments take numpy's scalars and arrays."""

import json

from cases.case_support import check, environment, finish, run

CLIENT = """
import json, sys
import numpy as np
from arlarena.client.gymnasium import TextEnv, TextVectorEnv
def tried(work):
    try:
        work()
        return "ok"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
one, many = TextEnv(sys.argv[1]), TextVectorEnv(sys.argv[1], 2)
one.reset(seed=1), many.reset(seed=1)
print(json.dumps({
    "reset of an index from np.arange": tried(lambda: one.reset(options={"index": np.arange(3)[2]})),
    "step with a chosen np.str_": tried(lambda: one.step(np.random.default_rng(0).choice(["up", "down"]))),
    "step of two with np.array": tried(lambda: many.step(np.array(["up", "down"]))),
    "step of two with a list": tried(lambda: many.step(["up", "down"])),
}))
one.close(), many.close()
"""

with environment("sokoban") as at:
    for name, said in json.loads(run(CLIENT, at)).items():
        check(name, said, "ok")
finish()
