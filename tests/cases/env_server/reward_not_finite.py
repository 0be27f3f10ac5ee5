"""A reward that is not a finite number is an error of the environment; a client is never given it as a reward."""

import json

from cases.case_support import ODD, check, finish, run, serving

CLIENT = """
import json, sys
from arlarena.client.sync import SyncEnvironments
out = {}
with SyncEnvironments(sys.argv[1]) as environments:
    for action in ("go", "nan", "inf", "none"):
        (session,) = environments.open(1)
        session.reset(index=0)
        try:
            out[action] = session.step(action).reward
        except Exception as error:
            out[action] = type(error).__name__
print(json.dumps(out))
"""

with serving("-c", ODD) as at:
    rewards = json.loads(run(CLIENT, at))
check("a reward of 1", rewards.pop("go"), 1.0)
for name, reward in rewards.items():
    check(f"{name}: a training client is told of a reward", isinstance(reward, float), False)
finish()
