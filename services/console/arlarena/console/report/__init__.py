"""The results of a run: `summary.json` and `report.html`."""
