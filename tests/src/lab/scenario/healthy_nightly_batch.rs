//! A batch that moves much at once for some seconds, and then is over.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Client, Side::Server],
    parameters: &[Parameter::any("mb", [3, 10]), Parameter::any("streams", [2, 4])],
    set: |stage, it| {
        let rate = Rate { bytes_per_second: 2_500_000, queue: 100_000 };
        let way = Way::delayed(2 * MS);
        stage.link([way.rate(rate), way])?;
        let (api, bulk) = (stage.at(80), stage.at(9000));
        let serve = Serve { work: 5 * MS, spread: 10 * MS, ..Serve::at(vec![api]) };
        stage.start(Side::Server, "api", Act::Serve(serve))?;
        stage.start(Side::Server, "store", Act::Serve(Serve::at(vec![bulk])))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![api; 4], 20.0)))?;
        // Files of 100 KB, one after the other.
        let streams = it["streams"];
        let files = Ask {
            request: 100_000,
            reply: 100,
            times: it["mb"] * 10 / streams,
            ..Ask::to(vec![bulk; streams as usize], 15.0)
        };
        stage.start(Side::Client, "batch", Act::Ask(files))?;
        Ok(())
    },
    proof: |it, seen, claims| {
        let files = it["mb"] * 10 / it["streams"] * it["streams"];
        claims.least("files moved, which is all", seen.said("store", "answers"), files);
        claims.least("bytes of them", seen.carried(Side::Client).bytes, files * 100_000);
        claims.least("answers beside them", seen.said("web", "answers"), 50);
    },
    ..Scenario::healthy("nightly-batch")
};
