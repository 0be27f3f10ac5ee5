"""A library folder that changes while the server runs does not change what programs can import.

Python lists a folder again when the folder's time of change differs. Here the program sets that time back itself.
"""

import json

from cases.case_support import check, finish, run

RUN = """
import json, sys
from arlarena.sandbox.forks import ForkSandbox
sandbox = ForkSandbox()
try:
    runs = [sandbox.run(code) for code in json.load(sys.stdin)]
finally:
    sandbox.close()
print(json.dumps([one.stdout.strip() or one.error_line for one in runs]))
"""
FRESH = "import wave, plistlib\nprint('ok')"
CHANGED = f"""
import sys
for finder in sys.path_importer_cache.values():
    if hasattr(finder, "_path_mtime"):
        finder._path_mtime = 0.0
{FRESH}
"""

fresh, changed = json.loads(run(RUN, input=json.dumps([FRESH, CHANGED])))
check("imports in a new sandbox", fresh, "ok")
check("imports when the folder's time of change is another", changed, "ok")
finish()
