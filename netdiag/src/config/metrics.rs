//! Where metrics go, and how many.

use std::net::SocketAddr;

use crate::{
    cli::{self, value::Collector},
    exit::Error,
};

/// Groups of flows that are told apart where `--listen-groups` is not given.
const GROUPS: u32 = 50;

/// Where metrics go, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where they are served.
    pub listen: Option<SocketAddr>,
    /// To whom they are sent.
    pub otlp: Option<Collector>,
    /// Groups of flows that are told apart.
    pub groups: usize,
}

/// None where they go nowhere.
pub(super) fn metrics(flags: &cli::Watch) -> Result<Option<Metrics>, Error> {
    let (listen, otlp) = (flags.listen, flags.otlp.clone());
    if listen.is_some() || otlp.is_some() {
        let groups = flags.listen_groups.unwrap_or(GROUPS) as usize;
        return Ok(Some(Metrics { listen, otlp, groups }));
    }
    match flags.listen_groups {
        None => Ok(None),
        Some(_) => Err(Error::usage(
            "--listen-groups is about metrics, which go nowhere; add --listen or --otlp, or leave it out",
        )),
    }
}
