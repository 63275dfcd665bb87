//! A report as one page that needs nothing else: style, script and data are in it, and no request leaves.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use serde::Serialize;
use serde_json::ser::{CharEscape, CompactFormatter, Formatter, Serializer};

use crate::{
    format::sanitised,
    report::{
        Report,
        told::{Row, Series},
    },
    signal,
};

const HTML: &str = include_str!("page.html");
/// What stands in it in place of its marks; that of the data is written by itself.
const PARTS: [(&str, &str); 5] = [
    ("/*css*/", include_str!("page.css")),
    (DATA, ""),
    ("/*charts*/", include_str!("charts.js")),
    ("/*tables*/", include_str!("tables.js")),
    ("/*page*/", include_str!("page.js")),
];
const DATA: &str = "/*data*/";

/// Cells of heat maps: a page with so many has a few megabytes. Rows beyond have none.
const CELLS: usize = 400_000;

/// Writes the page.
///
/// # Errors
/// What the writer says.
pub fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let mut rest = HTML;
    for (mark, part) in PARTS {
        let missing =
            || io::Error::new(io::ErrorKind::InvalidData, format!("no {mark} in the page"));
        let (before, after) = rest.split_once(mark).ok_or_else(missing)?;
        out.write_all(before.as_bytes())?;
        out.write_all(part.as_bytes())?;
        if mark == DATA {
            let mut serializer = Serializer::with_formatter(&mut *out, Harmless);
            Data::of(report).serialize(&mut serializer)?;
        }
        rest = after;
    }
    out.write_all(rest.as_bytes())?;
    out.flush()
}

/// What the script of the page reads.
#[derive(Serialize)]
struct Data<'a> {
    report: &'a Report,
    all: Extras<'a>,
    /// By kind, then row.
    by: Vec<Vec<Extras<'a>>>,
    /// What each metric says.
    help: BTreeMap<&'static str, &'static str>,
}

/// What only a page shows of a row, by metric.
type Extras<'a> = BTreeMap<&'a str, Extra<'a>>;

#[derive(Serialize)]
struct Extra<'a> {
    /// By column, in pairs of a quarter of a power of two and the samples in it; null beyond [`CELLS`].
    heat: Option<&'a [Vec<u64>]>,
    /// In pairs of a part of the samples and the value that it does not exceed.
    curve: &'a [(f64, u64)],
}

impl<'a> Data<'a> {
    fn of(report: &'a Report) -> Self {
        let mut room = CELLS;
        let all = extras(&report.all, &mut room);
        let mut by: Vec<Vec<_>> = report.by.iter().map(|_| Vec::new()).collect();
        // The worst of each kind first, so that no kind takes all the room.
        let most = report.by.iter().map(|grouped| grouped.rows.len()).max().unwrap_or(0);
        for at in 0..most {
            for (grouped, rows) in report.by.iter().zip(&mut by) {
                rows.extend(grouped.rows.get(at).map(|row| extras(row, &mut room)));
            }
        }
        let help = signal::metrics().map(|(_, _, metric)| (metric.name, metric.help)).collect();
        Self { report, all, by, help }
    }
}

fn extras<'a>(row: &'a Row, room: &mut usize) -> Extras<'a> {
    let metrics = row.over_time.iter().flat_map(|course| &course.metrics);
    metrics.map(|(name, series)| (name.as_str(), extra(series, room))).collect()
}

fn extra<'a>(series: &'a Series, room: &mut usize) -> Extra<'a> {
    let cells: usize = series.heat.iter().map(|column| column.len() / 2).sum();
    let fits = cells <= *room;
    *room -= if fits { cells } else { 0 };
    Extra { heat: fits.then_some(&series.heat), curve: &series.curve }
}

/// JSON within a page: nothing in it ends its element, and what others chose (process names come from processes)
/// has neither control characters nor marks that turn the direction of text.
struct Harmless;

impl Formatter for Harmless {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for c in sanitised(fragment).chars() {
            match c {
                '<' | '>' | '&' => write!(writer, "\\u{:04x}", u32::from(c))?,
                c => write!(writer, "{c}")?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote | CharEscape::ReverseSolidus | CharEscape::Solidus => {
                CompactFormatter.write_char_escape(writer, escape)
            }
            _ => write!(writer, "{}", char::REPLACEMENT_CHARACTER),
        }
    }
}

#[cfg(test)]
mod tests;
