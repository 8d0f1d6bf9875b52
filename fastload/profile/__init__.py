"""`fastload profile`: which resource a loader waits for, and which line of code changes that.

The way of a figure: `target` finds the loader, `trials` runs it at a few settings and keeps the
stamps of each batch, `journey` condenses them, `replay` predicts every other setting, `judge` and
`advice` put the result into words, `report` holds all of it. `screen`, `html` and `trace` only show
a report.
"""
