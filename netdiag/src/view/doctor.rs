//! What this kernel and these privileges allow.

use std::io::{self, Write};

use crate::{
    format::{MISSING, left, paragraph, sanitised, width},
    sandbox::Reached,
    snapshot::{Doctor, SignalStatus, Status},
};

const INDENT: &str = "    ";
const DEEPER: &str = "      ";
/// Under what stands behind a name of the head.
const UNDER: &str = "            ";

/// Writes the report for people, `columns` wide.
///
/// # Errors
/// What the writer says; a closed pipe among it.
pub fn text(doctor: &Doctor, columns: usize, out: &mut impl Write) -> io::Result<()> {
    let mut text = String::new();
    for line in lines(doctor, columns) {
        text.push_str(&line);
        text.push('\n');
    }
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn lines(doctor: &Doctor, columns: usize) -> Vec<String> {
    let known = |value: &Option<String>| value.as_deref().map_or(MISSING.to_owned(), sanitised);
    let mut lines = vec![
        format!("kernel      {}", sanitised(&doctor.kernel)),
        format!("BTF         {}", if doctor.btf { "yes" } else { "no: give --btf FILE" }),
        format!("lockdown    {}", known(&doctor.lockdown)),
        format!("preemption  {}", known(&doctor.preemption)),
    ];
    if doctor.host_root != "/" {
        lines.push(format!("host root   {}", sanitised(&doctor.host_root)));
    }
    lines.extend(sandbox(doctor.sandbox.as_ref(), columns));
    for unseen in &doctor.unseen {
        lines.extend(indented(&format!("not seen: {unseen}"), columns));
    }
    lines.push(String::new());
    let names = doctor.signals.iter().map(|signal| width(&signal.signal)).max().unwrap_or(0);
    for signal in &doctor.signals {
        lines.extend(one(signal, names, columns));
    }
    lines.push(String::new());
    lines.push(verdict(doctor));
    lines
}

fn sandbox(reached: Option<&Reached>, columns: usize) -> Vec<String> {
    let Some(reached) = reached else { return vec!["sandbox     none".to_owned()] };
    let kept = match &reached.capabilities[..] {
        [] => "no capability is left".to_owned(),
        kept => format!("capabilities dropped to {}", kept.join(", ")),
    };
    let landlock =
        reached.landlock.map_or("no Landlock".to_owned(), |abi| format!("Landlock ABI {abi}"));
    let parts = [
        Some(kept),
        reached.no_new_privileges.then(|| "no new privileges".to_owned()),
        Some(if reached.seccomp { "seccomp" } else { "no seccomp" }.to_owned()),
        Some(format!("{landlock} for recordings")),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    let line = format!("sandbox     {}", parts.join("; "));
    let mut lines = paragraph(&sanitised(&line), columns, "", UNDER);
    lines.extend(reached.lacking.iter().flat_map(|lacking| indented(lacking, columns)));
    lines
}

fn one(signal: &SignalStatus, names: usize, columns: usize) -> Vec<String> {
    let status = match signal.status {
        Status::Full => "full",
        Status::Degraded => "degraded",
        Status::Off => "off",
    };
    let mut source = signal.source.as_ref().map(|by| format!("by {by}")).unwrap_or_default();
    if let Some(what) = &signal.runs_per {
        source += &format!(", once per {}", sanitised(what));
    }
    let mut lines = vec![
        format!("{}  {}  {source}", left(&signal.signal, names), left(status, 8))
            .trim_end()
            .to_owned(),
    ];
    for missing in &signal.missing {
        lines.extend(indented(&format!("not seen: {missing}"), columns));
    }
    for refusal in &signal.refused {
        let text = format!("refused {}: {}", refusal.source, refusal.reason);
        lines.extend(indented(&text, columns));
    }
    lines
}

fn indented(text: &str, columns: usize) -> Vec<String> {
    paragraph(&sanitised(text), columns, INDENT, DEEPER)
}

fn verdict(doctor: &Doctor) -> String {
    let count = |status| doctor.signals.iter().filter(|signal| signal.status == status).count();
    let words = [
        format!("{} of {} signals full", count(Status::Full), doctor.signals.len()),
        format!("{} degraded", count(Status::Degraded)),
        format!("{} off", count(Status::Off)),
    ];
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;

    #[test]
    fn reports_look_as_agreed() {
        for name in ["doctor-full", "doctor-degraded"] {
            let mut out = Vec::new();
            text(&sample::read(name), 80, &mut out).expect("memory");
            insta::assert_snapshot!(name, String::from_utf8(out).expect("UTF-8"));
        }
    }
}
