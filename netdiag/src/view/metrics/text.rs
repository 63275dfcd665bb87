//! The two formats of text: OpenMetrics 1.0, and that of Prometheus, version 0.0.4. Histograms are classic in both.

use std::fmt::{self, Write as _};

use super::{
    family::{Family, Kind, Series, Value},
    histogram::{BOUNDS, Distribution},
};

/// Metrics as OpenMetrics 1.0.
pub(super) fn openmetrics(families: &[Family]) -> String {
    let mut text = written(families, true);
    text.push_str("# EOF\n");
    text
}

/// Metrics in the format of Prometheus, version 0.0.4.
pub(super) fn prometheus(families: &[Family]) -> String {
    written(families, false)
}

fn written(families: &[Family], open: bool) -> String {
    let mut text = String::new();
    for family in families.iter().filter(|family| !family.series.is_empty()) {
        // A string takes all that is written into it.
        let _infallible = write_family(&mut text, family, open);
    }
    text
}

fn write_family(text: &mut String, family: &Family, open: bool) -> fmt::Result {
    let definition = &*family.definition;
    // OpenMetrics names a family without what its kind adds to the names of its series.
    let name = if open { definition.family() } else { &definition.name };
    let kind = match definition.kind {
        Kind::Info if !open => Kind::Gauge,
        kind => kind,
    };
    let help = Escaped { text: &definition.help, quotes: open };
    writeln!(text, "# HELP {name} {help}")?;
    writeln!(text, "# TYPE {name} {}", kind.name())?;
    if let Some(unit) = definition.unit.filter(|_| open) {
        writeln!(text, "# UNIT {name} {}", unit.name())?;
    }
    for series in &family.series {
        let labels = Labels { names: &definition.labels, series, bound: None };
        match &series.value {
            Value::Number(value) => writeln!(text, "{}{labels} {value}", definition.name)?,
            Value::Histogram(told) => write_histogram(text, &definition.name, &labels, told)?,
        }
    }
    Ok(())
}

fn write_histogram(
    text: &mut String,
    name: &str,
    labels: &Labels<'_>,
    told: &Distribution,
) -> fmt::Result {
    let bounds = BOUNDS.iter().map(|(_, bound)| *bound).zip(told.classic);
    for (bound, n) in bounds.chain([("+Inf", told.count)]) {
        let labels = Labels { bound: Some(bound), ..*labels };
        writeln!(text, "{name}_bucket{labels} {n}")?;
    }
    writeln!(text, "{name}_sum{labels} {}", told.sum_seconds)?;
    writeln!(text, "{name}_count{labels} {}", told.count)
}

/// Labels in braces, nothing where there are none.
#[derive(Clone, Copy)]
struct Labels<'a> {
    names: &'a [&'static str],
    series: &'a Series,
    bound: Option<&'static str>,
}

impl fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = self.series.labels.iter().map(|value| &**value);
        let labels = self.names.iter().copied().zip(values);
        let mut before = '{';
        for (name, value) in labels.chain(self.bound.map(|bound| ("le", bound))) {
            write!(f, "{before}{name}=\"{}\"", Escaped { text: value, quotes: true })?;
            before = ',';
        }
        if before == '{' { Ok(()) } else { f.write_char('}') }
    }
}

/// Text in which nothing ends a line or, where `quotes` are to be kept, a label.
struct Escaped<'a> {
    text: &'a str,
    quotes: bool,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.text.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.quotes => f.write_str("\\\"")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
