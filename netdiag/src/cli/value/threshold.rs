//! Thresholds of findings, in the units that these are shown in.

use super::{Parsed, quantity::time};
use crate::finding::{self, Unit};

/// A threshold set by `--threshold`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given {
    /// Id of the finding.
    pub id: &'static str,
    /// Name of its threshold.
    pub name: &'static str,
    /// In the threshold's unit.
    pub value: f64,
}

/// A number of that unit: plain, or as outputs show it.
fn in_unit(text: &str, unit: Unit) -> Option<f64> {
    const BYTES: [(&str, f64); 5] = [
        ("KiB", 1_024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("B", 1.0),
    ];
    const COUNTS: [(&str, f64); 4] = [("k", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)];
    let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let scaled = |units: &[(&str, f64)]| {
        let text = text.strip_suffix("/s").unwrap_or(&text);
        let of = units.iter().find_map(|(unit, of)| Some((text.strip_suffix(unit)?, of)));
        let (number, of) = of.unwrap_or((text, &1.0));
        Some(number.parse::<f64>().ok()? * of)
    };
    match unit {
        Unit::Ns => Some(time(&text).ok()?.as_nanos() as f64),
        Unit::S => Some(time(&text).ok()?.as_secs_f64()),
        Unit::Ratio => Some(text.strip_suffix('%')?.parse::<f64>().ok()? / 100.0),
        Unit::Times => text.strip_suffix("times")?.parse().ok(),
        Unit::Bytes | Unit::BytesPerSecond => scaled(&BYTES),
        Unit::Count | Unit::PerSecond => scaled(&COUNTS),
    }
}

/// How a number of that unit may be written.
const fn hint(unit: Unit) -> &'static str {
    match unit {
        Unit::Ns | Unit::S => "write a time: 50ms, 2s",
        Unit::Ratio => "write a part of 1: 0.02, 2%",
        Unit::Times => "write how many times: 3, 2.5",
        Unit::Bytes | Unit::BytesPerSecond => "write bytes: 8192, 64KiB",
        Unit::Count | Unit::PerSecond => "write how many: 1000, 1k",
    }
}

/// `--threshold`.
pub fn threshold(text: &str) -> Parsed<Given> {
    let form = "write ID.NAME=VALUE, such as packet-loss.loss_ratio=0.02";
    let (name, value) =
        text.split_once('=').ok_or_else(|| format!("`{text}` sets nothing; {form}"))?;
    let (id, name) =
        name.split_once('.').ok_or_else(|| format!("`{name}` is no threshold; {form}"))?;
    let definition = finding::definition(id).ok_or_else(|| {
        let ids: Vec<_> = finding::DEFINITIONS.iter().map(|definition| definition.id).collect();
        format!("no finding `{id}`; there are {}", ids.join(", "))
    })?;
    let known = definition.thresholds.iter().find(|known| known.name == name);
    let known = known.ok_or_else(|| {
        let of_it = definition.thresholds.iter();
        let names: Vec<_> =
            of_it.map(|known| format!("{} ({})", known.name, known.value)).collect();
        format!("{id} has no threshold `{name}`; it has {}", names.join(", "))
    })?;
    let number = in_unit(value, known.unit).filter(|number| number.is_finite());
    let value = number.ok_or_else(|| {
        let hint = hint(known.unit);
        format!("`{value}` is no number for {}: {}; {hint}", known.name, known.help)
    })?;
    Ok(Given { id: definition.id, name: known.name, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn thresholds_are_taken_as_they_are_shown() {
        for definition in finding::DEFINITIONS {
            for known in definition.thresholds {
                let shown = crate::view::diagnose::valued(known.value, known.unit);
                let given = threshold(&format!("{}.{}={shown}", definition.id, known.name));
                let value = given.unwrap_or_else(|error| panic!("{shown}: {error}")).value;
                assert!(
                    (value - known.value).abs() <= known.value.abs() / 100.0,
                    "{shown}: {value}"
                );
            }
        }
        let refused = threshold("packet-loss.loss_ratio=2s").unwrap_err();
        assert!(refused.ends_with("; write a part of 1: 0.02, 2%"), "{refused}");
    }
}
