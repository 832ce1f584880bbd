"""The benchmark behind `bench/run`.

`main` reads the command line, `tools` finds or installs what is needed, `systems` and `workloads` say what is compared,
`load` puts load on it. Each part (`rounds`, `starts`, `density`, `messages`) returns rows for `results.json`; `summary` makes
medians of them, `targets` holds them against what was promised, `report` and `plot` show them.
"""
