//! Which format a scraper wants: by the header `Accept` of its request (RFC 9110, section 12.5.1).

/// The formats, the one first that tells the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus' protobuf, delimited: the one that has native histograms.
    Protobuf,
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// Prometheus' text, version 0.0.4: what is sent unless another one is asked for.
    Text,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Protobuf, Self::OpenMetrics, Self::Text];

    /// Value of the header `Content-Type`.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => {
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
            }
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// Parameters that, where a scraper names them, must have this value.
    const fn parameters(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Protobuf => {
                &[("proto", "io.prometheus.client.MetricFamily"), ("encoding", "delimited")]
            }
            Self::OpenMetrics => &[("version", "1.0.0")],
            Self::Text => &[("version", "0.0.4")],
        }
    }

    const fn ranges(self) -> &'static [&'static str] {
        match self {
            Self::Protobuf => &["application/vnd.google.protobuf"],
            Self::OpenMetrics => &["application/openmetrics-text"],
            Self::Text => &["text/plain", "text/*", "*/*"],
        }
    }

    /// The one that a scraper likes best, by its `Accept`; of several that it likes as much the first. Text where it
    /// wants none of them: a person's browser asks for HTML.
    #[must_use]
    pub fn wanted(accept: &str) -> Self {
        let best = Self::ALL.into_iter().map(|format| (format.liked(accept), format));
        best.rev()
            .max_by_key(|(liked, _)| *liked)
            .filter(|(liked, _)| *liked > 0)
            .map_or(Self::Text, |(_, format)| format)
    }

    /// How much a scraper likes it, in thousandths.
    fn liked(self, accept: &str) -> u32 {
        accept.split(',').filter_map(|range| self.liked_by(range)).max().unwrap_or(0)
    }

    fn liked_by(self, range: &str) -> Option<u32> {
        let mut parts = range.split(';').map(str::trim);
        let media = parts.next()?;
        if !self.ranges().iter().any(|one| one.eq_ignore_ascii_case(media)) {
            return None;
        }
        let mut liked = 1_000;
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim_matches('"');
            if name.eq_ignore_ascii_case("q") {
                let weight: f64 = value.parse().ok()?;
                liked = (weight.clamp(0.0, 1.0) * 1_000.0) as u32;
            } else if self.parameters().iter().any(|(known, only)| *known == name && *only != value)
            {
                return None;
            }
        }
        Some(liked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_scrapers_ask_for() {
        // Prometheus 2.42 with native histograms, and without; 3.x; curl; a browser.
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,\
            application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let classic = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
            text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        let newest = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
            application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
            text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, format) in [
            (native, Format::Protobuf),
            (classic, Format::OpenMetrics),
            (newest, Format::OpenMetrics),
            ("*/*", Format::Text),
            ("", Format::Text),
            ("text/html,application/xhtml+xml,application/xml;q=0.9", Format::Text),
            (
                "application/vnd.google.protobuf;proto=other.Message;encoding=delimited",
                Format::Text,
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
                Format::Text,
            ),
            ("application/openmetrics-text;version=0.0.1", Format::Text),
            ("application/openmetrics-text;q=0, text/plain;q=0.1", Format::Text),
            (
                "text/plain;q=0.5, application/openmetrics-text; version=\"1.0.0\" ;Q=0.9",
                Format::OpenMetrics,
            ),
            (";;,=;q=nan,", Format::Text),
        ] {
            assert_eq!(Format::wanted(accept), format, "{accept}");
        }
    }
}
