//! Runs the fault lab many times and prints what netdiag made of each fault, twin and healthy workload:
//! `cargo xtask lab`.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use netdiag_common::signal::Signal;
use netdiag_tests::{
    lab::{
        Expect, act,
        run::{Case, Manner, batch_on_time, batches},
        scenario::SCENARIOS,
        table,
    },
    random::Random,
    requirement::alone,
};

#[derive(Parser)]
struct Arguments {
    /// Runs of each scenario
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Only scenarios whose name starts so
    #[arg(long)]
    only: Vec<String>,
    /// Faults without their twins
    #[arg(long)]
    no_twins: bool,
    /// Only twins and healthy workloads
    #[arg(long, conflicts_with_all = ["no_twins", "prove"])]
    no_faults: bool,
    /// What the parameters are drawn from
    #[arg(long)]
    seed: Option<u64>,
    /// Seconds that each is watched
    #[arg(long, default_value_t = 18)]
    seconds: u64,
    /// Scenarios side by side
    #[arg(long, default_value_t = 6)]
    together: usize,
    /// Only prove the faults, without netdiag
    #[arg(long)]
    prove: bool,
    /// Beside it once without each signal
    #[arg(long, conflicts_with = "prove")]
    blind: bool,
    /// Names of the scenarios, and nothing else
    #[arg(long)]
    list: bool,
}

fn main() -> Result<()> {
    act::perform();
    let arguments = Arguments::parse();
    if arguments.list {
        SCENARIOS.iter().for_each(|scenario| println!("{}", scenario.name));
        return Ok(());
    }
    let mut random = arguments.seed.or_else(Random::given).map_or_else(Random::default, |seed| {
        eprintln!("NETDIAG_SEED={seed}");
        Random::of(seed)
    });
    let wanted = |name: &str| {
        arguments.only.is_empty()
            || arguments.only.iter().any(|only| name.starts_with(only.as_str()))
    };
    let manner = Manner {
        time: Duration::from_secs(arguments.seconds),
        together: arguments.together,
        diagnose: !arguments.prove,
        without: if arguments.blind { Signal::ALL } else { &[] },
    };
    let (mut outcomes, mut strays, mut again) = (Vec::new(), 0_u64, 0);
    let _alone = alone();
    for run in 0..arguments.runs {
        let seed = random.below(u64::MAX);
        let mut cases = Vec::new();
        for scenario in SCENARIOS.iter().filter(|scenario| wanted(scenario.name)) {
            if scenario.expect == Expect::Healthy || !arguments.no_faults {
                cases.push(Case::draw(scenario, false, seed));
            }
            if scenario.has_twin() && !arguments.no_twins {
                cases.push(Case::draw(scenario, true, seed));
            }
        }
        cases.retain(|case| {
            let missing = case.missing();
            if let Some(why) = missing.filter(|_| run == 0) {
                eprintln!("left out: {}: {why}", case.name());
            }
            missing.is_none()
        });
        if cases.is_empty() {
            bail!("--only names no scenario that can be had here");
        }
        for some in batches(cases, manner.together) {
            let played = batch_on_time(&some, manner)?;
            again += played.again;
            for outcome in played.outcomes {
                print!("{}", table::story(&outcome));
                outcomes.push(outcome);
            }
            for stray in played.strays {
                println!("of none of these: {}", table::line(&stray));
                strays += u64::from(stray.counts);
            }
        }
    }
    println!("\n{}", table::table(&outcomes));
    println!(
        "{again} runs more were wrong or stood beside a wrong one, on a machine that did not keep up"
    );
    let wrong = outcomes.iter().filter(|outcome| !outcome.is_right()).count();
    if wrong > 0 || strays > 0 {
        let runs = outcomes.len();
        bail!("{wrong} of {runs} runs are not as they must be, {strays} findings are of none");
    }
    Ok(())
}
