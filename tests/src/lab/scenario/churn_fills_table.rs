//! A client that opens a connection for each request, until the table of connections is full: the cause, and
//! what comes of it.

use std::sync::{Arc, OnceLock};

use super::prelude::*;
use crate::conntrack::table;

pub(super) static SCENARIO: Scenario = Scenario {
    takes: Some("conntrack limit"),
    // Eight seconds of fewer are less than 100 a second of the longest window, which is no churn.
    parameters: &[Parameter::any("per_s", [300, 400])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        track(stage, Side::Client)?;
        crowd(stage, 300)?;
        let at = stage.at(9200);
        stage.start(Side::Server, "index", Act::Serve(Serve::at(vec![at])))?;
        let ask = Ask {
            end: End::Closes,
            patience: Duration::from_secs(2),
            ..Ask::to(vec![at; 8], it["per_s"] as f64)
        };
        stage.start(Side::Client, "php", Act::Ask(ask))?;
        // What comes has room for eight of the seconds that are watched, however many went before: where there
        // is none any more each request waits a second for its SYN, and nobody opens many.
        let room = 8 * it["per_s"];
        let client = Arc::clone(stage.side(Side::Client));
        let limit = Arc::new(OnceLock::new());
        stage.keep(Arc::clone(&limit));
        stage.after(Duration::ZERO, move || {
            let set = Setting::new(MAX, &(table::count(&client)? + room))?;
            limit.get_or_init(|| set);
            Ok(())
        });
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("packets dropped for it", seen.tracking(Side::Client, "drop"), 5);
        claims.least("early drops", seen.tracking(Side::Client, "early_drop") + {
            seen.tracking(Side::Client, "drop")
        }, 20);
    },
    ..Scenario::chain(
        "churn-fills-table",
        &[
            ("connection-churn", &["process:{php}", "backend:{server}", "peer:{server}"]),
            ("conntrack-full", &["namespace:{client-netns}", "node:"]),
        ],
    )
};
