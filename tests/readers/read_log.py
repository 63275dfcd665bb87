"""Reads a histogram log with the Python library (hdrhistogram on PyPI).

Prints one line per tag: TAG, INTERVALS, COUNT, MAX, P99, separated by tabs.
"""

import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

sums = {}
intervals = {}
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 3_600_000_000_000, 2))
while True:
    histogram = reader.get_next_interval_histogram()
    if histogram is None:
        break
    tag = histogram.get_tag() or ""
    sums.setdefault(tag, HdrHistogram(1, 3_600_000_000_000, 2)).add(histogram)
    intervals[tag] = intervals.get(tag, 0) + 1
for tag in sorted(sums):
    total = sums[tag]
    fields = (tag, intervals[tag], total.get_total_count(), total.get_max_value(), total.get_value_at_percentile(99.0))
    print(*fields, sep="\t")
