"""`fastload profile`: which resource a loader waits for, and which line of code changes that.

The way of a figure: `target` finds the loader, `plan` runs it at a few settings (`trials`), keeps
the stamps of each batch, `load` condenses them, `replay` and `grid` predict every other setting and
run the best, `judge` and `advice` put the result into words, `report` holds all of it. `screen`,
`html` and `trace` only show a report.
"""
