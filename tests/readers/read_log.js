// Reads a histogram log with the JavaScript library (hdr-histogram-js on npm).
// Prints one line per tag: TAG, INTERVALS, COUNT, MAX, P99, separated by tabs.
const [modules, log] = process.argv.slice(2);
const hdr = require(modules + "/hdr-histogram-js");
const fs = require("fs");

// The library's name for lines without a tag, which it does not export.
const NO_TAG = "NO TAG";

const sums = new Map();
const intervals = new Map();
const reader = new hdr.HistogramLogReader(fs.readFileSync(log, "utf8"), 64, false);
for (let next = reader.nextIntervalHistogram(); next != null; next = reader.nextIntervalHistogram()) {
    const tag = next.tag === NO_TAG ? "" : next.tag;
    if (!sums.has(tag)) {
        sums.set(tag, hdr.build({
            lowestDiscernibleValue: 1,
            highestTrackableValue: 3600000000000,
            numberOfSignificantValueDigits: 2,
            bitBucketSize: 64,
        }));
    }
    sums.get(tag).add(next);
    intervals.set(tag, (intervals.get(tag) || 0) + 1);
}
for (const tag of [...sums.keys()].sort()) {
    const sum = sums.get(tag);
    console.log([tag, intervals.get(tag), sum.totalCount, sum.maxValue, sum.getValueAtPercentile(99)].join("\t"));
}
