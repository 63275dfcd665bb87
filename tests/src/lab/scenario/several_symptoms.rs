//! A client that opens a connection for each request, until the table of connections is full: the cause, and
//! what comes of it.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    takes: Some("conntrack limit"),
    parameters: &[Parameter::any("per_s", [200, 400])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        track(stage, Side::Client)?;
        // What comes has room for some seconds: nobody opens many where there is none any more.
        const CROWD: u64 = 300;
        crowd(stage, CROWD)?;
        stage.keep(Setting::new(MAX, &(CROWD + 12 * it["per_s"]))?);
        let at = stage.at(9200);
        stage.start(Side::Server, "index", Act::Serve(Serve::at(vec![at])))?;
        let ask = Ask {
            end: End::Closes,
            patience: Duration::from_secs(2),
            ..Ask::to(vec![at; 8], it["per_s"] as f64)
        };
        stage.start(Side::Client, "php", Act::Ask(ask))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("packets dropped for it", seen.tracking(Side::Client, "drop"), 5);
        claims.least("early drops", seen.tracking(Side::Client, "early_drop") + {
            seen.tracking(Side::Client, "drop")
        }, 20);
    },
    ..Scenario::faults(
        "churn-fills-table",
        &[
            ("connection-churn", &["process:{php}", "backend:{server}", "peer:{server}"]),
            ("conntrack-full", &["namespace:{client-netns}", "node:"]),
        ],
    )
};
