//! Where a collector of OpenTelemetry is, as a URL says it.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use super::Parsed;

/// Port of OTLP over HTTP, and path of its metrics (OTLP specification, "OTLP/HTTP Request").
const PORT: u16 = 4318;
const PATH: &str = "/v1/metrics";

const HINT: &str = "write http://HOST, such as http://127.0.0.1, http://collector.example:4318, \
                    http://[2001:db8::1]:4318/v1/metrics";

/// A collector that takes OTLP over HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Its name, or its address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Path, and query if there is one, as a request has them.
    pub path: String,
}

impl Collector {
    /// Host and port, as a request names them.
    #[must_use]
    pub fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        // Only an IPv6 address has any.
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority(), self.path)
    }
}

/// `--otlp`.
pub fn collector(text: &str) -> Parsed<Collector> {
    let rest = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
            return Err(
                "netdiag does not encrypt; send to a collector on this node by http://127.0.0.1, \
                        and let that one send on by https"
                    .to_owned(),
            );
        }
        _ => return Err(format!("that is no URL of HTTP; {HINT}")),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (host, port) = split(authority)?;
    Ok(Collector { host, port, path: of_path(path)? })
}

/// Host and port of what stands before the path.
fn split(authority: &str) -> Parsed<(String, u16)> {
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let address: Ipv6Addr =
                address.parse().map_err(|_| format!("`{address}` is no IPv6 address; {HINT}"))?;
            (address.to_string(), rest)
        }
        None => {
            let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
            (of_host(host)?, port)
        }
    };
    if port.is_empty() {
        return Ok((host, PORT));
    }
    let digits = port.strip_prefix(':').unwrap_or_default();
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse::<u16>() {
        Ok(number) if is_number && number > 0 => Ok((host, number)),
        _ => Err(format!("`{port}` is no port; {HINT}")),
    }
}

fn of_host(text: &str) -> Parsed<String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    // What looks like an address and is none is no name either.
    let is_name = text.chars().any(|c| c.is_ascii_alphabetic());
    if !is_name || text.len() > 253 || !text.chars().all(allowed) {
        return Err(format!("`{text}` is no name of a host, nor its address; {HINT}"));
    }
    Ok(text.to_owned())
}

/// Where metrics go unless it says otherwise; characters as RFC 3986 allows them (section 3.3).
fn of_path(text: &str) -> Parsed<String> {
    if text.is_empty() || text == "/" {
        return Ok(PATH.to_owned());
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/?".contains(c);
    if !text.starts_with('/') || !text.chars().all(allowed) {
        return Err(format!("`{text}` is no path of a URL; {HINT}"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_url_leaves_out_is_the_usual() {
        for (text, expected) in [
            ("http://127.0.0.1", "http://127.0.0.1:4318/v1/metrics"),
            ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/metrics"),
            ("HTTP://collector.example", "http://collector.example:4318/v1/metrics"),
            ("http://otel_collector:80/otlp", "http://otel_collector:80/otlp"),
            ("http://[::1]", "http://[::1]:4318/v1/metrics"),
            ("http://[2001:db8:0::1]:9/a/b?c=d%20", "http://[2001:db8::1]:9/a/b?c=d%20"),
        ] {
            let collector = collector(text).expect(text);
            assert_eq!(collector.to_string(), expected);
            assert_eq!(super::collector(expected), Ok(collector), "{expected}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for (text, says) in [
            ("https://collector.example:4318", "does not encrypt"),
            ("collector.example:4318", "no URL"),
            ("grpc://collector.example:4317", "no URL"),
            ("http://", "no name of a host"),
            ("http://:4318", "no name of a host"),
            ("http://user:secret@collector.example", "no port"),
            ("http://user@collector.example", "no name of a host"),
            ("http://300.0.0.1", "no name of a host"),
            ("http://::1", "no name of a host"),
            ("http://[::1", "no name of a host"),
            ("http://[10.0.0.1]", "no IPv6 address"),
            ("http://[::1]4318", "no port"),
            ("http://a:0", "no port"),
            ("http://a:65536", "no port"),
            ("http://a:+1", "no port"),
            ("http://a b", "no name of a host"),
            ("http://a/x y", "no path"),
            ("http://a/x\r\nHost: b", "no path"),
            ("http://a?x", "no path"),
            ("http://a/#x", "no path"),
        ] {
            let said = collector(text).expect_err(text);
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
