//! Names that others chose.

use super::*;
use crate::{flow::Grouping, format::sanitised, hostile, snapshot::build::row_name};

proptest! {
    /// They are in tags of groups and all over the sidecar, and neither file can harm a terminal.
    #[test]
    fn no_name_is_harmful_and_none_is_lost(name in hostile::name()) {
        let mut interval = interval(&[(1, &[1_000])], &[]);
        interval.flows[0].pid = Some(7);
        interval.flows[0].comm = Some(name.clone());
        interval.group(Grouping::Process);
        let tag = format!("{}.send", row_name(&interval.flows[0]));
        let mut snapshot = snapshot(0);
        snapshot.host.clone_from(&name);
        snapshot.flows[0].owner.comm = Some(name.clone());
        let start: Timestamp = "2026-11-21T04:18:00Z".parse().expect("time");
        let span = block::Span { file: start, start, end: start };
        let mut encoder = Encoder::default();
        let block = encoder.encode(&snapshot, &interval, span, 1, None).expect("encoded");
        for file in [&block.log, &block.sidecar] {
            for line in std::str::from_utf8(file).expect("UTF-8").split('\n') {
                prop_assert_eq!(sanitised(line), line);
            }
        }
        let lines = sidecar(&block.sidecar);
        prop_assert_eq!(lines[0]["host"].as_str(), Some(name.as_str()));
        let comm = &lines[0]["flows"][0]["owner"]["comm"];
        prop_assert_eq!(comm.as_str(), Some(name.as_str()));
        let tags: Vec<_> = logged(&block.log).into_iter().filter_map(|(tag, ..)| tag).collect();
        prop_assert_eq!(tags, [tag]);
    }
}
