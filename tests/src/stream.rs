//! What `netdiag events -o json` said in a run, each object held against its schema.

use std::{collections::BTreeMap, net::SocketAddr, process::ExitStatus};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use netdiag::snapshot::{Account, Stream as Received};
use serde_json::Value;

use crate::{facts::Facts, netdiag::Netdiag};

/// As netdiag's own tests hold it against the types.
const SCHEMA: &str = include_str!("../../docs/schema/event-1.json");

/// All objects of a run.
#[derive(Debug)]
pub struct Stream {
    /// Events, in the order in which they were told.
    pub events: Vec<Value>,
    /// What was left out, by kind: sums of what the stream said of it.
    pub suppressed: BTreeMap<String, u64>,
    /// When the stream said so.
    pub said: Vec<Timestamp>,
    /// The last object.
    pub end: Value,
    /// How it ended.
    pub status: ExitStatus,
    /// Lines on standard error.
    pub stderr: Vec<String>,
}

/// `netdiag events -o json` with an end far away and more arguments, ready.
///
/// # Errors
/// When it ends or stays silent instead.
pub fn start(arguments: &[&str]) -> Result<Netdiag> {
    let mut all = vec!["events", "-o", "json", "-d", "10h"];
    all.extend(arguments);
    Netdiag::start(&all)
}

impl Stream {
    /// Interrupts netdiag and reads all that it said.
    ///
    /// # Errors
    /// When it does not end, or an object is not of the schema.
    pub fn stop(netdiag: Netdiag) -> Result<Self> {
        let (status, out, stderr) = netdiag.stop_text()?;
        Self::parse(status, &out, stderr)
    }

    fn parse(status: ExitStatus, out: &[String], stderr: Vec<String>) -> Result<Self> {
        let schema = serde_json::from_str(SCHEMA)?;
        let validator = jsonschema::validator_for(&schema)?;
        let mut objects = Vec::new();
        for line in out {
            let object: Value = serde_json::from_str(line).with_context(|| line.clone())?;
            let errors: Vec<_> = validator.iter_errors(&object).map(|e| e.to_string()).collect();
            ensure!(errors.is_empty(), "{line} is not of the schema: {errors:?}");
            objects.push(object);
        }
        let end = objects.pop().with_context(|| format!("nothing was said; {stderr:?}"))?;
        ensure!(end["kind"] == "end", "the last object is {end}; {stderr:?}");
        let (said, events): (Vec<_>, Vec<_>) =
            objects.into_iter().partition(|object| object["kind"] == "suppressed");
        let mut suppressed = BTreeMap::new();
        for object in &said {
            for (kind, n) in numbers(&object["suppressed"])? {
                *suppressed.entry(kind).or_default() += n;
            }
        }
        let said = said.iter().map(time).collect::<Result<_>>()?;
        Ok(Self { events, suppressed, said, end, status, stderr })
    }

    /// The events of a kind.
    pub fn of(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(move |event| event["kind"] == kind)
    }

    /// The fates of a signal's samples.
    ///
    /// # Errors
    /// When the end does not tell them.
    pub fn account(&self, signal: &str) -> Result<Account> {
        let account = self.end["accounting"][signal].clone();
        serde_json::from_value(account).with_context(|| format!("{signal} in {}", self.end))
    }

    /// That it ended well, nothing was lost on the way, and what it said it left out adds up.
    ///
    /// # Errors
    /// When the end says no such things.
    pub fn at_rest(&self, facts: &mut Facts) -> Result<()> {
        facts.note(format_args!("{:?}", self.stderr));
        facts.equal("exit status", self.status.code(), Some(0));
        let accounting = self.end["accounting"].clone();
        let accounting: BTreeMap<String, Account> = serde_json::from_value(accounting)?;
        for (signal, account) in &accounting {
            facts.note(format_args!("{signal}: {account:?}"));
            facts.holds(format_args!("the account of {signal} balances"), account.balances());
            facts.equal(format_args!("{signal} pending"), account.pending, 0);
        }
        let stream: Received = serde_json::from_value(self.end["stream"].clone())?;
        let submitted: u64 = accounting.values().map(|account| account.submitted).sum();
        facts.equal("received of the samples submitted", stream.received, submitted);
        facts.equal("decoded of the samples received", stream.decoded, stream.received);
        let lost: u64 = accounting.values().map(Account::lost).sum();
        facts.equal("complete", self.end["complete"].as_bool(), Some(lost == 0));
        let said = numbers(&self.end["suppressed"])?;
        facts.equal("left out, as the stream said", &self.suppressed, &said);
        let mut told = BTreeMap::new();
        for event in &self.events {
            let kind = event["kind"].as_str().unwrap_or_default().to_owned();
            let many = event["packets"].as_u64().or_else(|| event["times"].as_u64());
            *told.entry(kind).or_default() += many.unwrap_or(1);
        }
        facts.equal("told", told, numbers(&self.end["told"])?);
        Ok(())
    }
}

fn numbers(object: &Value) -> Result<BTreeMap<String, u64>> {
    let object = object.as_object().with_context(|| format!("{object} is no object"))?;
    let number = |(kind, n): (&String, &Value)| {
        Ok((kind.clone(), n.as_u64().with_context(|| format!("{kind}: {n}"))?))
    };
    object.iter().map(number).collect()
}

/// When an event happened, or something was said.
///
/// # Errors
/// When it does not tell.
pub fn time(object: &Value) -> Result<Timestamp> {
    let time = object["time"].as_str().with_context(|| format!("no time in {object}"))?;
    Ok(time.parse()?)
}

/// A field summed over events, null as nothing.
pub fn sum<'a>(events: impl IntoIterator<Item = &'a Value>, field: &str) -> u64 {
    events.into_iter().filter_map(|event| event[field].as_u64()).sum()
}

/// Whether one end of an event's flow (`local`, `peer`) is there.
#[must_use]
pub fn is_at(event: &Value, end: &str, address: SocketAddr) -> bool {
    let found = &event["flow"][end];
    found["ip"] == address.ip().to_string() && found["port"] == address.port()
}

/// Whether an event is of that namespace.
#[must_use]
pub fn is_in(event: &Value, netns: u32) -> bool {
    event["flow"]["netns"] == netns
}
