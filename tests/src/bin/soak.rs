//! Lets one netdiag run for long while all happens that may happen to a node, and prints what came of it:
//! `cargo xtask soak`.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use netdiag::cli::value;
use netdiag_tests::{
    lab::act,
    random::Random,
    requirement::alone,
    soak::{self, Soak},
};

#[derive(Parser)]
struct Arguments {
    /// How long, as 2h
    #[arg(long = "for", value_name = "TIME", value_parser = value::duration)]
    time: Duration,
    /// What all is drawn from
    #[arg(long)]
    seed: Option<u64>,
    /// Loads side by side
    #[arg(long, default_value_t = 2)]
    loads: u8,
    /// MiB that it may grow by
    #[arg(long, default_value_t = 4)]
    growth: u32,
}

fn main() -> Result<()> {
    act::perform();
    let Arguments { time, seed, loads, growth } = Arguments::parse();
    let seed = seed.unwrap_or_else(Random::seed);
    eprintln!("NETDIAG_SEED={seed}");
    let _alone = alone();
    let soaked = soak::run(&Soak {
        time,
        seed,
        grounds: loads,
        guests: 2,
        interval: "1s",
        growth_bytes: Some(f64::from(growth) * f64::from(1 << 20)),
    })?;
    println!("{}", soaked.table);
    soaked.facts.finish();
    Ok(())
}
