"""The side-by-side benchmark behind `fastload bench`: torch's DataLoader and ours, in turn.

The way of a figure: `catalogue` names the workloads, `suite` runs them, each measurement in a fresh
process (`processes`): first `verify`, which compares the batches of both loaders (`equality`), then
`measure`, once per loader and round. `ratios` condenses the runs, `report` and `table` show them.

Everything here but `verify`, `measure` and the `workloads` folder does without torch: the parent
process stays small and idle while it watches.
"""
