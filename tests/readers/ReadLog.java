// Reads a histogram log with the Java library, the reference implementation.
// Prints one line per tag: TAG, INTERVALS, COUNT, MAX, P99, separated by tabs.
import java.io.File;
import java.util.Map;
import java.util.TreeMap;
import org.HdrHistogram.EncodableHistogram;
import org.HdrHistogram.Histogram;
import org.HdrHistogram.HistogramLogReader;

public class ReadLog {
    public static void main(String[] arguments) throws Exception {
        Map<String, Histogram> sums = new TreeMap<>();
        Map<String, Integer> intervals = new TreeMap<>();
        HistogramLogReader reader = new HistogramLogReader(new File(arguments[0]));
        EncodableHistogram next;
        while ((next = reader.nextIntervalHistogram()) != null) {
            String tag = next.getTag() == null ? "" : next.getTag();
            sums.computeIfAbsent(tag, t -> new Histogram(1, 3_600_000_000_000L, 2)).add((Histogram) next);
            intervals.merge(tag, 1, Integer::sum);
        }
        for (Map.Entry<String, Histogram> entry : sums.entrySet()) {
            Histogram sum = entry.getValue();
            System.out.println(entry.getKey() + "\t" + intervals.get(entry.getKey()) + "\t"
                    + sum.getTotalCount() + "\t" + sum.getMaxValue() + "\t" + sum.getValueAtPercentile(99.0));
        }
    }
}
