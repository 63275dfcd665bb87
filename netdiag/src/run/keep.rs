//! One interval in files, as `record` writes them: what the key `w` of the full screen asks for.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use crate::{
    config,
    flow::{Grouping, Interval},
    labels::Labels,
    snapshot::{
        Node, Snapshot,
        build::{Frame, Listing, Scope},
        redact::Redactor,
    },
    view::dump::Recorder,
};

/// Flows that have histograms and a line of their own, as in a recording; the rest is summed up.
const TOP: usize = 1_000;

/// Writes all of an interval, of whose flows `snapshot` has the largest, to a new pair of files. Returns which; `say`
/// gets what there is to be said of those that lie there, a line each.
///
/// # Errors
/// Nothing was written, or not all of it.
pub(super) fn keep(
    out: &Path,
    node: &str,
    snapshot: Snapshot,
    mut interval: Interval,
    labels: &Labels,
    redactor: Option<&Redactor>,
    say: impl Fn(&str),
) -> Result<String> {
    let listing = Listing { top: Some(TOP), all: true, telling: true, ..Listing::default() };
    listing.arrange(&mut interval);
    let time = |text: &str| -> Result<_> { Ok(text.parse::<Timestamp>()?.into()) };
    let frame = Frame {
        scope: Scope::Interval,
        by: Grouping::Flow,
        start: time(&snapshot.start)?,
        end: time(&snapshot.end)?,
        host: &snapshot.host,
        kernel: &snapshot.kernel,
        labels,
        signals: &snapshot.signals,
        filtered: snapshot.filtered,
        node: Node::default(),
        own: snapshot.own,
        accounting: snapshot.accounting,
        stream: snapshot.stream,
    };
    let mut whole = frame.build(&interval);
    redactor.iter().for_each(|it| it.snapshot(&mut whole));
    // It has its pseudonyms already.
    whole.node = snapshot.node;
    let settings = config::Dump {
        out: out.to_owned(),
        node: None,
        // Nothing that lies there is removed for it.
        max_disk: u64::MAX,
        rotate_size: u64::MAX,
        rotate_every: Duration::MAX,
    };
    let (mut recorder, said) = Recorder::open(&settings, node)?;
    said.iter().for_each(|line| say(line));
    if let Some(line) = recorder.write(&whole, &interval) {
        bail!("nothing was written: {line}");
    }
    let path = recorder.current().context("nothing was written")?.to_owned();
    recorder.close()?;
    let mended = match said.len() {
        0 => String::new(),
        lines => format!("; {lines} lines on earlier ones come at the end"),
    };
    Ok(format!("written: {} and its .jsonl{mended}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        fs::{self, OpenOptions},
        io::Write as _,
    };

    use super::*;
    use crate::{flow::Frozen, snapshot::build::rfc3339};

    #[test]
    fn an_interval_is_kept_and_another_one_beside_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let flows = (1..3).map(|id| Frozen { id, ..Frozen::default() }).collect();
        let interval = Interval { flows, ..Interval::default() };
        let now = std::time::SystemTime::now();
        let frame = Frame {
            scope: Scope::Interval,
            by: Grouping::Flow,
            start: now,
            end: now,
            host: "node-1",
            kernel: "6.12",
            labels: &Labels::default(),
            signals: &[],
            filtered: false,
            node: Node::default(),
            own: crate::snapshot::Own::default(),
            accounting: std::collections::BTreeMap::new(),
            stream: crate::snapshot::Stream::default(),
        };
        let snapshot = frame.build(&Interval::default());
        assert_eq!(snapshot.end, rfc3339(now));
        let said = RefCell::new(Vec::new());
        let say = |line: &str| said.borrow_mut().push(line.to_owned());
        let files = || fs::read_dir(directory.path()).expect("files");
        for nth in 1..3 {
            let (snapshot, interval) = (snapshot.clone(), interval.clone());
            let labels = Labels::default();
            let line = keep(directory.path(), "node-1", snapshot, interval, &labels, None, say);
            assert!(line.expect("kept").starts_with("written: "));
            assert_eq!(files().count(), 2 * nth);
            assert_eq!(said.borrow().len(), nth - 1, "{said:?}");
            // As if the run that wrote it had been killed in its next interval.
            let paths = files().map(|file| file.expect("a file").path());
            let mut logs = paths.filter(|path| path.extension().is_some_and(|end| end == "hlog"));
            let log = OpenOptions::new().append(true).open(logs.next().expect("a log"));
            log.expect("opened").write_all(b"Tag=f1.send,0.0").expect("written");
        }
        assert!(said.borrow()[0].contains("of an incomplete interval were cut"), "{said:?}");
    }
}
