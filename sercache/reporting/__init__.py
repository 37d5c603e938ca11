"""The report of a run, and the comparison of runs: what is shown, and the page that shows it."""
