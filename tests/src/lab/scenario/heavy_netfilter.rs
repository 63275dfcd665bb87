//! So many rules of a packet filter that each packet takes its time.

use super::prelude::*;

pub(super) static SCENARIO: Scenario = Scenario {
    watch: &[Side::Server],
    parameters: &[Parameter::new("rules", [11_000, 30_000], [4_000, 8_000])],
    set: |stage, it| {
        stage.link_alike(Way::delayed(MS))?;
        let rules: String = (0..it["rules"])
            .map(|rule| {
                let [high, low] = [rule / 250, rule % 250 + 1];
                format!(" ip saddr 198.{}.{}.{low} drop\n", 18 + high / 250, high % 250)
            })
            .collect();
        stage.nft(Side::Server, &format!(
            "table ip services {{\n chain input {{\n type filter hook input priority 0;\n{rules} }}\n}}\n"
        ))?;
        let at = stage.at(80);
        stage.start(Side::Server, "api", Act::Serve(Serve::at(vec![at])))?;
        stage.start(Side::Client, "web", Act::Ask(Ask::to(vec![at; 2], 20.0)))?;
        Ok(())
    },
    proof: |_, seen, claims| {
        claims.least("answers", seen.said("web", "answers"), 100);
    },
    ..Scenario::fault("heavy-netfilter", &["namespace:{server-netns}"])
};
