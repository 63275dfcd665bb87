//! Which servers are of one service: what is known of it, and how one of them departs from the others.
//!
//! A program asks many services at one port: everything is at 443 on the Internet, and pods of any service listen at
//! 8080. That they are of one service is known where their address is translated from the service's. Where it is not
//! (a balancer in the client, or in its sockets) it shows: servers of one service are asked for the same things, so
//! that requests and answers are about as large, and take about the same but for the one that is slow.

use std::{iter, net::SocketAddr};

use super::{ALIKE, MORE, SIBLINGS, SPREAD, TIMES};
use crate::{
    finding::Limits,
    watched::{Group, Seen, Sums},
};

/// What may be one service: what the same program asks at the same address, where that is translated to those who
/// answer, else at the same port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Service {
    pub(super) netns: Option<u32>,
    pub(super) comm: Option<String>,
    pub(super) port: u16,
    /// Where clients send to, if that is not who answers.
    pub(super) at: Option<SocketAddr>,
}

/// One server with what it takes.
pub(super) struct Server<'a> {
    pub(super) at: SocketAddr,
    pub(super) group: Group<'a>,
    p50: u64,
    p90: u64,
    /// Bytes of a request and of an answer, in the mean.
    pub(super) bytes: Option<[f64; 2]>,
}

/// Requests that were answered.
fn turns(sums: &Sums) -> u64 {
    sums.samples("response") + sums.at_least("turns_ambiguous")
}

/// Whether what was asked last over a connection was not answered. That is one request: who gives it up gives the
/// connection up with it.
fn is_in_vain(flow: &Seen) -> bool {
    let is_first = turns(&flow.sums) == 0 && flow.sums.at_least("bytes_sent") > 0;
    is_first || flow.course.asked_bytes > 0
}

/// A percentile of a server's responses.
type Quantile = fn(&Server<'_>) -> u64;

impl<'a> Server<'a> {
    /// None where too few of its responses are known.
    pub(super) fn of(at: SocketAddr, flows: Vec<&'a Seen>, least: u64) -> Option<Self> {
        let group = Group::of(flows);
        let sums = &group.sums;
        let (p50, p90) =
            (sums.quantile("response", 0.5, least)?, sums.quantile("response", 0.9, least)?);
        let answered = turns(sums);
        // What was asked and given up was asked, too, and the slower a server is, the more of that there is.
        let in_vain = group.flows.iter().filter(|flow| is_in_vain(flow)).count() as u64;
        let mean = |bytes: &str, turns: u64| Some(sums.count(bytes)? as f64 / turns.max(1) as f64);
        let bytes = mean("bytes_sent", answered + in_vain).zip(mean("bytes_received", answered));
        let bytes = bytes.map(|(sent, received)| [sent, received]);
        Some(Self { at, p50, p90, bytes, group })
    }

    /// Whether it is asked for as much as another one, and says as much; none where that is not known.
    pub(super) fn is_asked_like(&self, other: &Self, limits: &Limits) -> Option<bool> {
        /// What less differs in is headers.
        const SMALL: f64 = 100.0;
        let (mine, theirs) = self.bytes.zip(other.bytes)?;
        let is_alike = |(one, other): (f64, f64)| {
            one.max(other) <= limits.of(&ALIKE) * one.min(other).max(SMALL)
        };
        Some(iter::zip(mine, theirs).all(is_alike))
    }
}

/// What says that servers are of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kin {
    /// The address that is translated to theirs.
    Service(SocketAddr),
    /// There are several that are asked alike and take about the same.
    Likeness,
    /// Nothing but the port.
    Port,
}

/// How a server departs from others.
pub(super) struct Departure {
    /// The percentile by which it does.
    pub(super) which: &'static str,
    /// Nanoseconds that it takes, and that the others take.
    pub(super) mine: u64,
    pub(super) usual: u64,
    pub(super) kin: Kin,
}

impl Departure {
    /// None where it does not, or where it does with others.
    pub(super) fn of(
        limits: &Limits,
        service: &Service,
        one: &Server<'_>,
        others: &[&Server<'_>],
    ) -> Option<Self> {
        let of = |which: &'static str, value: Quantile| {
            let usual = upper_median(others.iter().map(|other| value(other)))?;
            let mine = value(one);
            let is_out = mine as f64 >= limits.of(&TIMES) * usual as f64
                && mine.saturating_sub(usual) as f64 >= limits.of(&MORE);
            is_out.then_some((which, value, mine, usual))
        };
        let found = of("p50", |server| server.p50).or_else(|| of("p90", |server| server.p90));
        let (which, value, mine, usual) = found?;
        let kin = match service.at {
            Some(at) => Kin::Service(at),
            None if are_like(limits, one, others, value) => Kin::Likeness,
            // Who is not alone with it is of a slower service, as likely as not.
            None if others.iter().any(|other| value(other) >= mine / 2) => return None,
            None => Kin::Port,
        };
        Some(Self { which, mine, usual, kin })
    }
}

/// Whether the others are by all that is seen what this one would be if it were not slow.
fn are_like(limits: &Limits, one: &Server<'_>, others: &[&Server<'_>], value: Quantile) -> bool {
    /// Part of what this one departs by, in which the others may differ in any case.
    const CLOSE: f64 = 0.1;
    let Some(usual) = upper_median(others.iter().map(|other| value(other))) else { return false };
    // There may be others that are slow.
    let sound = others.iter().map(|other| value(other));
    let sound: Vec<_> =
        sound.filter(|value| (*value as f64) < limits.of(&TIMES) * usual as f64).collect();
    let Some((least, most)) = sound.iter().min().zip(sound.iter().max()) else { return false };
    let departs = value(one).saturating_sub(usual) as f64;
    let is_close = *most as f64 <= limits.of(&SPREAD) * *least as f64
        || (most - least) as f64 <= CLOSE * departs;
    sound.len() as f64 >= limits.of(&SIBLINGS)
        && is_close
        && others.iter().all(|other| one.is_asked_like(other, limits) == Some(true))
}

/// Of two in the middle the larger: who takes longer than that one does so by either.
pub(super) fn upper_median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}
