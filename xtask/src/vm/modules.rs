//! Chooses which of a kernel's modules go into the guest: networking and virtio, whole; of the
//! rest what those need.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::archive::Archive;
use crate::process;

/// Directories and files under `kernel/` that are taken.
const TAKEN: &[&str] = &[
    "net/",
    "lib/",
    "crypto/",
    "arch/",
    "drivers/virtio/",
    "drivers/char/virtio_console.ko",
    "drivers/char/hw_random/",
    "drivers/net/veth.ko",
    "drivers/net/dummy.ko",
    "drivers/net/tun.ko",
    "drivers/net/tap.ko",
    "drivers/net/ifb.ko",
    "drivers/net/bonding/",
    "drivers/net/macvlan.ko",
    "drivers/net/macvtap.ko",
    "drivers/net/ipvlan/",
    "drivers/net/vrf.ko",
    "drivers/net/vxlan",
    "drivers/net/geneve.ko",
    "drivers/net/wireguard/",
    "drivers/net/nlmon.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
    "drivers/net/netdevsim/",
    "net/core/failover.ko",
    "fs/overlayfs/",
];

/// Directories under those that no test of this project can meet.
const LEFT: &[&str] = &[
    "net/bluetooth/",
    "net/mac80211/",
    "net/wireless/",
    "net/sunrpc/",
    "net/ceph/",
    "net/can/",
    "net/smc/",
    "net/tipc/",
    "net/rds/",
    "net/dccp/",
    "net/atm/",
    "net/appletalk/",
    "net/9p/",
    "net/batman-adv/",
    "net/nfc/",
    "net/ieee802154/",
    "net/6lowpan/",
    "net/rxrpc/",
    "net/lapb/",
    "net/x25/",
    "net/ax25/",
    "net/netrom/",
    "net/rose/",
    "net/phonet/",
    "net/caif/",
    "net/hsr/",
    "arch/x86/kvm/",
];

/// True when the module at `path` (under `kernel/`) goes into the guest.
fn wanted(path: &str) -> bool {
    let starts = |list: &[&str]| list.iter().any(|prefix| path.starts_with(prefix));
    starts(TAKEN) && !starts(LEFT)
}

/// Writes the modules of `release`, found in `modules`, uncompressed (what unpacks in the guest is
/// slow there) and with an index of those alone.
pub(crate) fn archive(
    modules: &Path,
    release: &str,
    work: &Path,
    mut archive: Archive,
) -> Result<()> {
    let base = work.join("guest");
    let chosen = base.join("lib/modules").join(release);
    fs::create_dir_all(&chosen)?;
    copy(&modules.join("kernel"), "", &chosen.join("kernel"))?;
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        fs::copy(modules.join(list), chosen.join(list))
            .with_context(|| format!("the kernel's packages have no {list}"))?;
    }
    process::run(
        Command::new(process::which("depmod").context("depmod is missing: install kmod")?)
            .arg("-b")
            .arg(&base)
            .arg(release),
    )?;
    add(&mut archive, &chosen, &format!("/lib/modules/{release}"))?;
    archive.finish()
}

fn copy(from: &Path, relative: &str, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &format!("{relative}{name}/"), &to.join(&name))?;
        } else if wanted(&format!("{relative}{name}")) {
            fs::create_dir_all(to)?;
            let copied = to.join(&name);
            fs::copy(entry.path(), &copied)?;
            if name.ends_with(".xz") {
                process::run(Command::new("xz").args(["-d", "--quiet"]).arg(copied))?;
            } else if name.ends_with(".zst") {
                process::run(Command::new("zstd").args(["-d", "--rm", "--quiet"]).arg(copied))?;
            }
        }
    }
    Ok(())
}

fn add(archive: &mut Archive, from: &Path, guest: &str) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let guest = format!("{guest}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            add(archive, &entry.path(), &guest)?;
        } else {
            archive.file(&entry.path(), &guest)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networking_is_wanted_and_radio_is_not() {
        for path in [
            "net/sched/sch_netem.ko.xz",
            "drivers/net/veth.ko",
            "lib/crc/x.ko",
            "drivers/virtio/virtio_pci.ko",
        ] {
            assert!(wanted(path), "{path}");
        }
        for path in
            ["net/mac80211/mac80211.ko", "drivers/net/ethernet/intel/e1000.ko", "fs/btrfs/btrfs.ko"]
        {
            assert!(!wanted(path), "{path}");
        }
    }
}
