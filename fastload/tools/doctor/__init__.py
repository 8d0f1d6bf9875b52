"""`fastload doctor`: what this machine allows a loader to do, and what to change.

Each file looks at one thing: `observe` reads it into a frozen record, `judge` turns that into
findings, each with a verdict and a cure. So the judging can be tried with machines one has not.
"""

from fastload.tools.doctor.examine import examine
from fastload.tools.doctor.finding import Finding, Verdict, worst

__all__ = ["Finding", "Verdict", "examine", "worst"]
