//! `netdiag report`: recordings are gone through twice, and what comes of it is written.

use std::{io, sync::Arc, time::SystemTime};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use netdiag_common::{flow::mapped, globals::Filters};

use super::{
    diagnose::is_wanted,
    output::STDOUT,
    recordings::pairs::{self, Extent, Found, Pair},
    terminal::Reading,
    voice::say,
};
use crate::{
    cli::{Output, value::When},
    config::{self, Owners},
    exit::Status,
    format,
    node::own,
    report::{Asked, Fold, Origin, Survey},
    snapshot::{Flow, Snapshot},
    view::{self, table::COLUMNS},
};

mod file;

use file::Replaced;

/// Reports what was recorded. Where nothing of it can be read the run is a failed one.
pub(super) fn run(config: &config::Report) -> Result<Status> {
    own::keep_memory_ready();
    let Found { pairs, mut notes, is_whole } = pairs::find(&config.paths)?;
    let mut is_read = is_whole;
    let page = config.html.as_deref().map(Replaced::create).transpose()?;
    let asked = asked(config, SystemTime::now());
    let (filters, owners) = (config.filters, config.owners.clone());
    let wanted = move |finding: &_, watched: &_| is_wanted(finding, watched, &filters, &owners);
    let mut survey = Survey::new(asked, Arc::new(wanted));
    let mut extents = Vec::new();
    let reading = Reading::begin("looking at what was recorded", pairs.len());
    for (at, pair) in pairs.iter().enumerate() {
        reading.file();
        let origin = Origin { node: pair.name.node(), pair: at };
        let take = |snapshot: &Snapshot| {
            reading.interval();
            survey.take(origin, snapshot);
        };
        // A recorder may take an old one away meanwhile.
        let extent = pair.snapshots(take).unwrap_or_else(|error| {
            notes.push(format!("{error:#}"));
            is_read = false;
            Extent::default()
        });
        is_read &= extent.unread == 0;
        notes.extend(unread(pair, extent));
        extents.push(extent);
    }
    drop(reading);
    let Some(chosen) = survey.choose() else {
        notes.iter().for_each(|note| say(note));
        let nodes: Vec<_> = pairs::nodes(&pairs).into_iter().collect();
        say(&format!(
            "{}: no interval was recorded in that time that can be read; record for longer than one --interval, or \
             give another --since and --until",
            nodes.join(", ")
        ));
        return Ok(if is_read { Status::Ran } else { Status::Failed });
    };
    let mut fold = Fold::new(chosen);
    let reading = Reading::begin("adding up what was recorded", pairs.len());
    for (at, (pair, extent)) in pairs.iter().zip(extents).enumerate() {
        reading.file();
        let origin = Origin { node: pair.name.node(), pair: at };
        let taken = pair.intervals(extent, |one| {
            reading.interval();
            fold.take(origin, &one.snapshot, &one.tags, one.log.as_deref());
        });
        if let Err(error) = taken {
            notes.push(format!("{error:#}"));
            is_read = false;
        }
    }
    drop(reading);
    let report = fold.report(config.metric, page.is_some(), notes, is_read);
    // Before anything is printed: whoever reads that may go.
    if let Some(page) = page {
        page.write(|out| view::report::page::write(&report, out))?;
    }
    let mut out = io::stdout().lock();
    match config.output {
        Output::Text => view::report::text(&report, COLUMNS, &mut out).context(STDOUT)?,
        Output::Json => view::json::line(&report, &mut out).context(STDOUT)?,
    }
    Ok(Status::Ran)
}

fn unread(pair: &Pair, extent: Extent) -> Option<String> {
    (extent.unread > 0).then(|| {
        format!(
            "{}: {} lines are torn or no snapshots, and were left out; the rest counts",
            pair.sidecar.display(),
            format::count(extent.unread)
        )
    })
}

fn asked(config: &config::Report, now: SystemTime) -> Asked {
    let at = |when: When| {
        let at = match when {
            When::At(at) => at,
            When::Ago(ago) => {
                let at = now.checked_sub(ago).and_then(|at| Timestamp::try_from(at).ok());
                at.unwrap_or(Timestamp::MIN)
            }
        };
        // What is further off than these nanoseconds reach is before or after all that was recorded.
        let nanoseconds = at.as_nanosecond().clamp(i64::MIN.into(), i64::MAX.into());
        i64::try_from(nanoseconds).unwrap_or(i64::MAX)
    };
    let (filters, owners) = (config.filters, config.owners.clone());
    Asked {
        by: config.by.clone(),
        top: config.top,
        since: config.since.map(at),
        until: config.until.map(at),
        filtered: config.filtered(),
        wanted: Box::new(move |flow| accepts(flow, &filters, &owners)),
    }
}

/// Whether filters ask for a flow. Of one that does not say what they ask for, they do not.
fn accepts(flow: &Flow, filters: &Filters, owners: &Owners) -> bool {
    let [local, peer] = [&flow.local, &flow.peer].map(|end| u32::from(end.port.unwrap_or(0)));
    let ip = flow.peer.ip.map_or([0; 16], mapped);
    (filters.port.accept(local) || filters.port.accept(peer))
        && filters.local_port.accept(local)
        && filters.peer_port.accept(peer)
        && filters.netns.accept(flow.netns.unwrap_or(0))
        && filters.pid.accept(flow.owner.pid.unwrap_or(0))
        && filters.peer.accept(&ip)
        && owners.accepts_owner(&flow.owner) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watched::kit;

    #[test]
    fn what_a_flow_does_not_say_is_not_asked_for() {
        let flow = kit::flow("f1");
        let unknown = Flow { netns: None, ..kit::flow("f2") };
        let mut filters = Filters::default();
        let none = Owners::default();
        assert!(accepts(&flow, &filters, &none) && accepts(&unknown, &filters, &none));
        (filters.netns.values[0], filters.netns.len) = (kit::NETNS, 1);
        assert!(accepts(&flow, &filters, &none) && !accepts(&unknown, &filters, &none));
        let shop = Owners { comms: vec!["shop".to_owned()], ..Owners::default() };
        let pod = Owners { pods: vec!["web".to_owned()], ..Owners::default() };
        assert!(accepts(&flow, &filters, &shop) && !accepts(&flow, &filters, &pod));
        (filters.port.values[0], filters.port.len) = (443, 1);
        assert!(accepts(&flow, &filters, &none));
        filters.port.values[0] = 444;
        assert!(!accepts(&flow, &filters, &none));
    }
}
