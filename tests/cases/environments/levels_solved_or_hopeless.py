"""Of a level file with a solved and an unsolvable room, the other rooms are played."""

import tempfile
from pathlib import Path

from cases.case_support import call, check, corridors, environment, finish

with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    grids = ["; solved\n#####\n#@ *#\n#####", "; hopeless\n#####\n#$@.#\n#####", *corridors()]
    (folder / "levels.txt").write_text("\n\n".join(grids) + "\n")
    config = folder / "run.toml"
    config.write_text(f'[environment]\nname = "sokoban"\n[environment.options]\nlevels = "{folder}/levels.txt"\n')
    with environment("sokoban", str(config)) as at:
        solved, hopeless, played = [], [], 0
        for split in call(at, "GET", "/v1/info")[1]["splits"]:
            for index in range(split["size"] or 40):
                status, body = call(at, "POST", "/reset", {"split": split["name"], "index": index})
                if status != 200:
                    break
                played += 1
                solved += [body["metadata"]["task_id"]] if body["done"] else []
                hopeless += [body["metadata"]["task_id"]] if body["metadata"]["optimal_moves"] is None else []
        check("tasks that are over before they begin", solved, [])
        check("tasks without a solution", hopeless, [])
        check("tasks were played", played > 0, True)
finish()
