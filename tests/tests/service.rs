//! A service with three backends: each flow names the one that answers it, and by that they are grouped.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use ::netdiag::snapshot::{Endpoint, Flow, Snapshot};
use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use netdiag_tests::{
    attempt::skipped,
    conntrack::{
        service::{Asked, BACKENDS, SERVICE, Service, backend},
        table,
    },
    facts::Facts,
    hlog, machine,
    netdiag::{self, Netdiag},
    outcome::{flow_of, metric, status},
    require,
    requirement::{Feature, alone},
    source,
};

/// What the slow backend takes at least; the others take a small part of it on any machine.
fn slow() -> Duration {
    Duration::from_millis(machine::amount(60, 600))
}

const SIGNALS: [&str; 2] = ["--signals", "socket,send,conntrack,rtt,turn"];

fn end(address: std::net::SocketAddr) -> Option<Endpoint> {
    Some(Endpoint { ip: Some(address.ip()), port: Some(address.port()) })
}

/// A service, with the kernel's own word on what it translates, for those who ask.
fn service() -> Result<Service> {
    let service = Service::new(slow())?;
    table::list(&service.node)?;
    Ok(service)
}

fn names(facts: &mut Facts, total: &Snapshot, asked: &Asked) -> Result<()> {
    let ends = [flow_of(total, &asked.client)?, flow_of(total, &asked.server)?];
    for flow in ends {
        let what = format_args!("{} from {:?} to {:?}", flow.id, flow.local, flow.peer);
        facts.equal(format_args!("service of {what}"), flow.service.clone(), end(SERVICE));
        facts.equal(
            format_args!("backend of {what}"),
            flow.backend.clone(),
            end(asked.server.local),
        );
    }
    let [client, server] = ends;
    facts.equal("pair of the client", client.pair.as_ref(), Some(&server.id));
    facts.equal("pair of the server", server.pair.as_ref(), Some(&client.id));
    Ok(())
}

#[test]
fn flows_name_the_service_and_who_answers() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    let _alone = alone();
    let service = service()?;
    let mut older = (0..BACKENDS).map(|_| service.connect()).collect::<Result<Vec<_>>>()?;
    let netdiag = Netdiag::live(&SIGNALS)?;
    let mut younger = (0..2 * BACKENDS).map(|_| service.connect()).collect::<Result<Vec<_>>>()?;
    let mut direct = service.connect_to(backend(0))?;
    for asked in older.iter_mut().chain(&mut younger).chain([&mut direct]) {
        asked.ask(3)?;
    }
    // One that is over before anything is told of it.
    let short = service.connect()?;
    let (client, server) = (short.client, short.server.local);
    drop(short);
    let outcome = netdiag.stop()?;
    let total = outcome.total()?;
    let mut facts = Facts::new();
    facts.note(format_args!("{:?}", status(total, "conntrack")?));
    for asked in older.iter().chain(&younger) {
        names(&mut facts, total, asked)?;
    }
    let backends: BTreeSet<_> = younger.iter().map(|asked| asked.server.local).collect();
    facts.equal("backends", backends.len(), usize::from(BACKENDS));
    let short = flow_of(total, &client)?;
    facts.equal("backend of a short one", short.backend.clone(), end(server));
    for end in [&direct.client, &direct.server] {
        let flow = flow_of(total, end)?;
        facts.equal("service of what is not translated", flow.service.clone(), None);
        facts.equal("backend of what is not translated", flow.backend.clone(), None);
    }
    facts.at_rest(total);
    facts.finish();
    Ok(())
}

/// The row of a group.
fn group<'a>(total: &'a Snapshot, id: &str) -> Result<&'a Flow> {
    let ids: Vec<_> = total.flows.iter().map(|flow| flow.id.as_str()).collect();
    let found = total.flows.iter().find(|flow| flow.id == id);
    found.with_context(|| format!("no {id} among {ids:?}"))
}

#[test]
fn each_backend_has_its_own_histogram_and_the_slow_one_stands_out() -> Result<()> {
    require!(Feature::Nft);
    require!(Feature::Conntrack);
    const CONNECTIONS: usize = 4;
    const REQUESTS: u64 = 5;
    let _alone = alone();
    source::until_unskipped(|| {
        let service = service()?;
        let directory = tempfile::tempdir()?;
        let out = directory.path().join("dump").display().to_string();
        let netns =
            format!("{},{},{}", service.pod.inode(), service.node.inode(), service.servers.inode());
        let mut arguments = vec!["record", "-o", "json", "-i", "1s", "--out", &out];
        arguments.extend(["--by", "backend", "--sort", "response.p50", "--netns", &netns]);
        let netdiag = Netdiag::start(&[&arguments[..], &SIGNALS].concat())?;
        let number = CONNECTIONS * usize::from(BACKENDS);
        let mut all = (0..number).map(|_| service.connect()).collect::<Result<Vec<_>>>()?;
        for asked in &mut all {
            asked.ask(REQUESTS)?;
        }
        let outcome = netdiag.stop()?;
        let total = outcome.total()?;
        if skipped(total, &["send", "rtt", "turn"]).is_some() {
            Facts::only_at_rest(total);
            return Ok(false);
        }
        let mut facts = Facts::new();
        facts.note(format_args!("{:#?}", total.flows));
        let asked = CONNECTIONS as u64 * REQUESTS;
        for number in 0..BACKENDS {
            let at = backend(number);
            let (client, server) = (
                group(total, &format!("backend:{at}"))?,
                group(total, &format!("backend:{at}/server"))?,
            );
            for (row, latency) in [(client, "response"), (server, "service")] {
                let told = row.group.as_ref().context("no group")?;
                facts.equal(
                    format_args!("name of {}", row.id),
                    told.name.clone(),
                    Some(at.to_string()),
                );
                facts.equal(format_args!("flows of {}", row.id), told.flows, CONNECTIONS as u64);
                let found = metric(row, latency);
                facts.equal(format_args!("{latency} of {}", row.id), found.count, asked);
                let p50 = Duration::from_nanos(found.p50_ns.unwrap_or_default());
                let is_slow = number + 1 == BACKENDS;
                facts.holds(format_args!("{p50:?} at {}", row.id), (p50 >= slow()) == is_slow);
            }
            facts.equal(
                "peer of a client's group",
                client.peer.clone(),
                end(SERVICE).context("an end")?,
            );
            facts.equal("service", client.service.clone(), end(SERVICE));
            facts.equal("backend", client.backend.clone(), end(at));
        }
        let slowest = total.flows.iter().find(|flow| flow.metrics.contains_key("response"));
        let expected = format!("backend:{}", backend(BACKENDS - 1));
        facts.equal("first by response.p50", slowest.map(|flow| &flow.id), Some(&expected));
        facts.at_rest(total);
        log(&mut facts, Path::new(&out), asked)?;
        facts.finish();
        Ok(true)
    })
}

/// That the log has a histogram for each backend, and those of all groups add up to the node's.
fn log(facts: &mut Facts, directory: &Path, asked: u64) -> Result<()> {
    let files = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let path = files.into_iter().find(|path| path.extension().is_some_and(|it| it == "hlog"));
    let by_tag = hlog::read(&path.context("no log")?)?;
    for number in 0..BACKENDS {
        let tag = format!("backend:{}.response", backend(number));
        facts.equal(&tag, by_tag.get(&tag).map(Histogram::len), Some(asked));
    }
    for metric in ["send", "response", "service", "rtt"] {
        let node = if metric == "send" { "" } else { metric };
        let node = by_tag.get(node).with_context(|| format!("the log has no {metric}"))?;
        let mut sum = Histogram::new_from(node);
        let of_metric = by_tag.iter().filter(|(tag, _)| tag.ends_with(&format!(".{metric}")));
        of_metric.for_each(|(_, group)| sum += group);
        facts.holds(format_args!("the groups' {metric} add up to the node's"), sum == *node);
    }
    Ok(())
}

#[test]
fn what_has_no_place_in_diagnose_says_so() -> Result<()> {
    let output = netdiag::run(&["diagnose", "--by", "peer"])?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("single flows"), "{said}");
    Ok(())
}
