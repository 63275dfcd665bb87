//! Faults made on purpose: loss on the way, and packets that never leave.

use std::io::Write;

use anyhow::{Context, Result};

use crate::{
    machine,
    namespace::Namespace,
    requirement::{Feature, available},
    tool,
};

/// A fault in force, taken back by [`Fault::end`] or on drop.
#[derive(Debug)]
#[must_use = "a fault ends when it is dropped"]
pub struct Fault<'a> {
    namespace: &'a Namespace,
    undo: &'static str,
}

/// Loses one of `one_in` packets from `sender` to `receiver`, whatever they carry.
///
/// Natively a rule in the receiver's PREROUTING drops every `one_in`th packet; emulated machines
/// use netem on the sender's link, at random. Not in OUTPUT: that fails the send instead.
///
/// # Errors
/// When `nft` or `tc` fails.
pub fn loss<'a>(sender: &'a Namespace, receiver: &'a Namespace, one_in: u32) -> Result<Fault<'a>> {
    if machine::emulated() && available(Feature::Netem) {
        let percent = 100.0 / f64::from(one_in);
        tool::line(&format!(
            "tc -n {} qdisc replace dev wire root netem loss {percent}%",
            sender.name()
        ))?;
        return Ok(Fault { namespace: sender, undo: NETEM });
    }
    drop_incoming(receiver, &format!("meta l4proto tcp numgen inc mod {one_in} 0 drop"))
}

/// Drops what arrives at `receiver` and matches an nftables rule that ends in `drop`.
///
/// # Errors
/// When `nft` fails.
pub fn drop_incoming<'a>(receiver: &'a Namespace, rule: &str) -> Result<Fault<'a>> {
    nft(receiver, "faultin", "prerouting priority -300", rule)?;
    Ok(Fault { namespace: receiver, undo: INCOMING })
}

/// Drops what is to be delivered at `receiver` and matches an nftables rule that ends in `drop`.
///
/// # Errors
/// When `nft` fails.
pub fn drop_delivered<'a>(receiver: &'a Namespace, rule: &str) -> Result<Fault<'a>> {
    nft(receiver, "faultin", "input priority 0", rule)?;
    Ok(Fault { namespace: receiver, undo: INCOMING })
}

/// Drops what `sender` sends and matches, inside its own stack: the send fails with EPERM.
///
/// # Errors
/// When `nft` fails.
pub fn drop_outgoing<'a>(sender: &'a Namespace, rule: &str) -> Result<Fault<'a>> {
    nft(sender, "faultout", "output priority -300", rule)?;
    Ok(Fault { namespace: sender, undo: OUTGOING })
}

const NETEM: &str = "tc qdisc del dev wire root";
const INCOMING: &str = "nft delete table inet faultin";
const OUTGOING: &str = "nft delete table inet faultout";

fn nft(namespace: &Namespace, table: &str, hook: &str, rule: &str) -> Result<()> {
    let script = format!(
        "table inet {table} {{\n chain fault {{\n type filter hook {hook};\n {rule}\n }}\n}}\n"
    );
    load(namespace, &script)
}

/// Adds the rules of a script for `nft -f`.
///
/// # Errors
/// When `nft` fails.
pub(crate) fn load(namespace: &Namespace, script: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(script.as_bytes())?;
    let output = namespace.command("nft")?.arg("-f").arg(file.path()).output()?;
    tool::finish(&format!("nft -f with {script}"), &output)?;
    Ok(())
}

impl Fault<'_> {
    /// Takes it back.
    ///
    /// # Errors
    /// When the tool that made it fails.
    pub fn end(mut self) -> Result<()> {
        self.take_back()
    }

    fn take_back(&mut self) -> Result<()> {
        let mut words = std::mem::take(&mut self.undo).split_whitespace();
        let Some(program) = words.next() else { return Ok(()) };
        let output = self.namespace.command(program)?.args(words).output()?;
        tool::finish("end of a fault", &output).context(self.namespace.name().to_owned())?;
        Ok(())
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.take_back() {
            eprintln!("{error:#}");
        }
    }
}
