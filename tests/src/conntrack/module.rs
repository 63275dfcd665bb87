//! Connection tracking as a module of the kernel: loaded by the first rule that needs it, or never.

use std::{collections::BTreeMap, fs};

use anyhow::{Result, ensure};

use crate::{machine, tool};

const NAME: &str = "nf_conntrack";

/// Whether this kernel has it as a module.
#[must_use]
pub fn exists() -> bool {
    let list = format!("/lib/modules/{}/modules.dep", machine::release());
    fs::read_to_string(list).is_ok_and(|list| list.contains("/nf_conntrack.ko"))
}

/// Whether it is loaded.
///
/// # Errors
/// When `/proc/modules` cannot be read.
pub fn is_loaded() -> Result<bool> {
    Ok(users(&fs::read_to_string("/proc/modules")?).contains_key(NAME))
}

/// Loads it.
///
/// # Errors
/// When `modprobe` fails.
pub fn load() -> Result<()> {
    tool::run("modprobe", &[NAME])?;
    Ok(())
}

/// Removes it and all modules that use it. No namespace may have rules that need them; one that has just
/// gone is waited for, since the kernel takes it down at its leisure.
///
/// # Errors
/// When something else holds one of them.
pub fn remove() -> Result<()> {
    let mut last = Ok(());
    let gone = machine::wait_until(|| {
        last = try_remove();
        last.is_ok() && is_loaded().is_ok_and(|loaded| !loaded)
    });
    ensure!(gone, "{NAME} stays loaded: {last:?}\n{}", fs::read_to_string("/proc/modules")?);
    Ok(())
}

fn try_remove() -> Result<()> {
    let modules = fs::read_to_string("/proc/modules")?;
    for module in order(&users(&modules), NAME) {
        tool::run("rmmod", &[module])?;
    }
    Ok(())
}

/// Which modules use each (`/proc/modules`: name, bytes, references, users with a comma behind each).
fn users(text: &str) -> BTreeMap<&str, Vec<&str>> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (name, users) = (words.next()?, words.nth(2)?);
            let users = users.split(',').filter(|user| !["", "-"].contains(user));
            Some((name, users.collect()))
        })
        .collect()
}

/// A module and all that use it, each behind those that use it; nothing when it is not loaded.
fn order<'a>(users: &BTreeMap<&'a str, Vec<&'a str>>, module: &'a str) -> Vec<&'a str> {
    let Some(direct) = users.get(module) else { return Vec::new() };
    let mut all = Vec::new();
    for &user in direct {
        for one in order(users, user) {
            if !all.contains(&one) {
                all.push(one);
            }
        }
    }
    all.push(module);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_use_it_go_first() {
        let text = "nf_nat 57344 1 nft_chain_nat, Live 0x0\n\
                    nft_chain_nat 16384 0 - Live 0x0\n\
                    nf_conntrack 172032 2 nf_nat,nft_ct, Live 0x0\n\
                    nft_ct 24576 0 - Live 0x0\n\
                    veth 36864 0 - Live 0x0\n";
        let users = users(text);
        assert_eq!(order(&users, NAME), ["nft_chain_nat", "nf_nat", "nft_ct", NAME]);
        assert!(order(&users, "absent").is_empty());
    }
}
