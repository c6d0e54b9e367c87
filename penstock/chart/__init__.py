"""chart: numbers into SVG text. Small multiples with few words: no script, no style sheet, nothing from outside.

Two lines of 300 points take 1 ms and 9 kB here; with pygal 3.1 they took 87 ms and 191 kB, brought a
script link along, and there was no interval plot.
"""

from penstock.chart.draw import COLOURS, calibration, forest, line
from penstock.chart.flow import Box, flow
from penstock.chart.small import spark, spread

__all__ = ["COLOURS", "Box", "calibration", "flow", "forest", "line", "spark", "spread"]
