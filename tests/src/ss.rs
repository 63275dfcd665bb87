//! What `ss` says of a socket: the independent word on what the kernel counts and holds of it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::{namespace::Namespace, tool, traffic::End};

/// Numbers by the names of `ss -tinm`, round trips and all that has the unit `ms` in nanoseconds. What
/// is 0 it leaves out.
pub type Said = BTreeMap<String, u64>;

/// Asks in a namespace for the socket of this end.
///
/// # Errors
/// When there is none, or `ss` speaks another way.
pub fn said_of(namespace: &Namespace, end: &End) -> Result<Said> {
    let ports = [format!(":{}", end.local.port()), format!(":{}", end.peer.port())];
    let filter = ["sport", "=", &ports[0], "and", "dport", "=", &ports[1]];
    let output = namespace.command("ss")?.arg("-tinmOH").args(filter).output()?;
    let line = tool::finish("ss -tinmOH", &output)?;
    parse(&line).with_context(|| line.clone())
}

fn parse(line: &str) -> Result<Said> {
    let mut said = Said::new();
    let mut words = line.split_whitespace();
    words.next().context("no such socket")?;
    for name in ["recv_q", "send_q"] {
        said.insert(name.to_owned(), words.next().context("no queue")?.parse()?);
    }
    for word in words {
        let Some((name, value)) = word.split_once(':') else { continue };
        if name == "skmem" {
            for part in value.trim_matches(['(', ')']).split(',') {
                let digits = part.find(|c: char| c.is_ascii_digit()).context("skmem")?;
                said.insert(format!("skmem_{}", &part[..digits]), part[digits..].parse()?);
            }
            continue;
        }
        // The present before the sum.
        if let ("retrans", Some((_, sum))) = (name, value.split_once('/')) {
            said.insert("retrans_sum".to_owned(), sum.parse()?);
        }
        // `busy:104ms(100.0%)`, `retrans:0/3`, `rtt:0.05/0.02`
        let value = value.split(['(', '/']).next().unwrap_or_default();
        let milliseconds = match name {
            "rtt" | "minrtt" => Some(value),
            _ => value.strip_suffix("ms"),
        };
        if let Some(milliseconds) = milliseconds {
            let milliseconds: f64 = milliseconds.parse()?;
            said.insert(name.to_owned(), (milliseconds * 1e6).round() as u64);
        } else if let Ok(value) = value.parse() {
            said.insert(name.to_owned(), value);
        }
    }
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = "ESTAB 3 5 10.0.0.1:9 10.0.0.2:80 skmem:(r0,rb131072,t0,tb87040) cubic \
                    rtt:0.052/0.02 retrans:0/3 busy:104ms(100.0%) minrtt:0.04 cwnd:10";
        let said = parse(line).unwrap();
        for (name, value) in [
            ("recv_q", 3),
            ("send_q", 5),
            ("skmem_rb", 131_072),
            ("rtt", 52_000),
            ("minrtt", 40_000),
            ("retrans", 0),
            ("retrans_sum", 3),
            ("busy", 104_000_000),
            ("cwnd", 10),
        ] {
            assert_eq!(said.get(name), Some(&value), "{name}");
        }
        assert!(parse("").is_err());
    }
}
