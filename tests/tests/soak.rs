//! A minute of bad weather: what `cargo xtask soak` does for hours, but for whether memory grows.

use std::time::Duration;

use anyhow::Result;
use netdiag_tests::{
    lab::act,
    random::Random,
    require,
    requirement::{Feature, alone},
    soak::{self, Soak},
};

/// What the actors of the lab are: this very test, in a process of its own (`lab::act`).
#[test]
fn act() {
    act::perform();
}

#[test]
fn a_minute_of_bad_weather() -> Result<()> {
    require!(Feature::Bpftool);
    require!(Feature::Nft);
    let _alone = alone();
    let seed = Random::seed();
    eprintln!("NETDIAG_SEED={seed}");
    let soaked = soak::run(&Soak {
        time: Duration::from_secs(60),
        seed,
        grounds: 2,
        guests: 1,
        interval: "500ms",
        // What it needs once comes late in so short a time: findings remember 8,192 flows of their window. A limit that
        // lets that pass would find nothing.
        growth_bytes: None,
    })?;
    eprintln!("{}", soaked.table);
    soaked.facts.finish();
    Ok(())
}
