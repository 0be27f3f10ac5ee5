"""The run of the benchmark of the page has the episodes that it measures."""

from pathlib import Path

from arlarena.console.page.index.builder import EpisodeIndexer
from arlarena.console.page.index.database import RunDatabase
from arlarena.console.page.reading.run_files import BoundedFiles
from benchmarks.console import recorded_run


def test_the_index_of_the_run_has_all_episodes_and_no_problem(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(recorded_run, "STEPS", 5)
    recorded_run.make_run(tmp_path / "run", 100)
    database = RunDatabase(tmp_path / "cache", tmp_path / "run", "x")
    index = EpisodeIndexer(BoundedFiles(tmp_path / "run"), database)
    index.refresh()
    assert (index.progress.ready, index.progress.episodes, index.progress.problems) == (True, 100, 0)
    with database.connect() as connection:
        sources = dict(connection.execute("SELECT source, count(*) FROM episodes GROUP BY 1").fetchall())
    assert sources == {"evaluation": 20, "training": 80}
    database.close()
