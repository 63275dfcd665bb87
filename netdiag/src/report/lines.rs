//! The lines of an interval in a log: `Tag=f12.send,0.000,1.000,0.002,HISTFA…`.

/// A histogram as it stands in a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The flow's tag and the metric; none of the node's own histograms.
    pub(super) of: Option<(&'a str, &'a str)>,
    /// Base64 of it.
    pub(super) encoded: &'a [u8],
}

/// The histograms of an interval; none for a line that is neither one nor a comment.
pub(super) fn histograms(block: &[u8]) -> impl Iterator<Item = Option<Line<'_>>> {
    let lines = block.split(|byte| *byte == b'\n');
    lines.filter(|line| !line.is_empty() && !line.starts_with(b"#")).map(line)
}

fn line(line: &[u8]) -> Option<Line<'_>> {
    let (tag, numbers) = match line.strip_prefix(b"Tag=") {
        Some(rest) => {
            let end = rest.iter().position(|byte| *byte == b',')?;
            (Some(std::str::from_utf8(&rest[..end]).ok()?), &rest[end + 1..])
        }
        None => (None, line),
    };
    let mut fields = numbers.splitn(4, |byte| *byte == b',');
    let encoded = fields.nth(3)?;
    // The node's own have the metric's name alone, or no tag.
    Some(Line { of: tag.and_then(|tag| tag.rsplit_once('.')), encoded })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let block = b"#[Gap: 3]\n0.000,1.000,0.001,AAA=\nTag=rtt,0.000,1.000,0.001,BBB\n\
            Tag=f12.send,0.000,1.000,0.001,CCC\nTag=peer:10.0.0.1.rtt,0.0,1.0,0.1,DDD\nnonsense\n#[Complete: 1]\n";
        let found: Vec<_> = histograms(block).collect();
        let line = |of, encoded: &'static str| Some(Line { of, encoded: encoded.as_bytes() });
        let expected = [
            line(None, "AAA="),
            line(None, "BBB"),
            line(Some(("f12", "send")), "CCC"),
            line(Some(("peer:10.0.0.1", "rtt")), "DDD"),
            None,
        ];
        assert_eq!(found, expected);
    }
}
