//! What a report is made of.

use std::path::PathBuf;

use netdiag_common::globals::Filters;

use super::{
    Owners, check_filters, targets,
    targets::{numbers, prefixes},
};
use crate::{
    cli::{
        self, Output,
        value::{NetnsName, When},
    },
    exit::Error,
    report::By,
};

/// Rows of each table that a page can have: with all tables and metrics it is some 100 MB then.
const PAGE_ROWS: u16 = 200;

/// What a report is made of, and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Directories and files.
    pub paths: Vec<PathBuf>,
    /// Tables.
    pub by: Vec<By>,
    /// Rows of each.
    pub top: usize,
    /// Metric that rows are sorted by, where one is given.
    pub metric: Option<&'static str>,
    /// Earlier intervals are left out.
    pub since: Option<When>,
    /// Later ones, too.
    pub until: Option<When>,
    /// Where a page goes.
    pub html: Option<PathBuf>,
    /// Form of the output.
    pub output: Output,
    /// What is asked of conversations and process ids.
    pub filters: Filters,
    /// What is asked of owners.
    pub owners: Owners,
}

impl Report {
    /// Whether flows are left out.
    #[must_use]
    pub fn filtered(&self) -> bool {
        !self.filters.is_empty() || self.owners != Owners::default()
    }
}

pub(super) fn report(flags: &cli::Report) -> Result<Report, Error> {
    check_filters(&flags.filters)?;
    if flags.filters.wait {
        return Err(Error::usage(
            "--wait waits for what does not exist yet, and recordings are of what was; leave it out",
        ));
    }
    let wanted = targets(&flags.filters);
    let mut netns = Vec::new();
    for name in &wanted.netns {
        let NetnsName::Inode(inode) = name else {
            return Err(Error::usage(format!(
                "--netns {name}: recordings know network namespaces by inode number; give that, `--by netns` \
                 lists those that were recorded"
            )));
        };
        netns.push(*inode);
    }
    let mut by = flags.by.clone();
    if by.is_empty() {
        by = if flags.html.is_some() { By::ALL.to_vec() } else { vec![By::Peer] };
    }
    let mut known = Vec::new();
    by.retain(|one| {
        !known.contains(one) && {
            known.push(*one);
            true
        }
    });
    if flags.html.is_some() && flags.top > PAGE_ROWS {
        return Err(Error::usage(format!(
            "--top {}: a page holds each row over time, and browsers not that many; ask for {PAGE_ROWS} at most, or \
             for -o json",
            flags.top
        )));
    }
    let ports = |ports: &[u16]| numbers(ports.iter().copied().map(u32::from));
    Ok(Report {
        paths: flags.paths.clone(),
        by,
        top: flags.top.into(),
        metric: flags.metric,
        since: flags.since,
        until: flags.until,
        html: flags.html.clone(),
        output: flags.output,
        filters: Filters {
            pid: numbers(wanted.pids.iter().copied()),
            port: ports(&wanted.ports),
            local_port: ports(&wanted.local_ports),
            peer_port: ports(&wanted.peer_ports),
            netns: numbers(netns.into_iter()),
            peer: prefixes(&wanted.peers),
            ..Filters::default()
        },
        owners: wanted.owners,
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{cli::Asked, config::Config};

    #[test]
    fn refusals_are_one_line_of_words() {
        for line in [
            "netdiag report DIR --html FILE --top 300",
            "netdiag report DIR --netns blue",
            "netdiag report DIR --pid 1 --wait",
        ] {
            let asked = cli::parse(line.split(' ').map(Into::into)).expect(line);
            let Asked::Run(cli) = asked else { panic!("{line}") };
            let error = Config::new(&cli, Path::new("/node")).expect_err(line).to_string();
            assert!(!error.contains("  ") && !error.contains('\n'), "{line}: {error}");
        }
    }

    #[test]
    fn who_reads_recordings_is_confined_unless_nobody_wants_that() {
        for (line, expected) in [
            ("netdiag report DIR", true),
            ("netdiag report DIR --no-sandbox", false),
            ("netdiag diagnose --from DIR", true),
            ("netdiag diagnose --from DIR --no-sandbox", false),
        ] {
            let asked = cli::parse(line.split(' ').map(Into::into)).expect(line);
            let Asked::Run(cli) = asked else { panic!("{line}") };
            let config = Config::new(&cli, Path::new("/node")).expect(line);
            assert_eq!(config.kernel.sandbox, expected, "{line}");
        }
    }
}
