//! What deploy/daemonset.yaml asks for.

use anyhow::{Context, Result};

/// The manifest that netdiag runs by in a cluster.
pub const DAEMONSET: &str = include_str!("../../../deploy/daemonset.yaml");

/// What a volume of the manifest mounts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub(super) host: String,
    pub(super) inside: String,
    pub(super) read_only: bool,
}

/// The capabilities that the manifest adds, with the kernel's prefix.
///
/// # Errors
/// When it adds none.
pub fn capabilities_of(manifest: &str) -> Result<Vec<String>> {
    let (_, added) = manifest.split_once("add:\n").context("no capabilities are added")?;
    let names = added.lines().map_while(|line| line.trim().strip_prefix("- "));
    Ok(names.filter_map(|name| Some(format!("CAP_{}", name.split_whitespace().next()?))).collect())
}

pub(super) fn host_network(manifest: &str) -> bool {
    manifest.contains("hostNetwork: true")
}

/// Mounts of the manifest, each with the directory of the node that its volume is.
pub(super) fn volumes(manifest: &str) -> Result<Vec<Volume>> {
    let value = |line: &str, key: &str| {
        let rest = line.split_once(&format!("{key}: "))?.1;
        Some(rest.split([',', '}']).next()?.trim().to_owned())
    };
    let (_, sources) = manifest.split_once("      volumes:\n").context("no volumes")?;
    let host = |name: &str| {
        let mut lines = sources.lines().skip_while(|line| line.trim() != format!("- name: {name}"));
        value(lines.nth(1)?, "path")
    };
    let mounts = manifest.lines().filter(|line| line.contains("mountPath:"));
    let volume = |line: &str| {
        let name = value(line, "name")?;
        Some(Volume {
            host: host(&name)?,
            inside: value(line, "mountPath")?,
            read_only: line.contains("readOnly: true"),
        })
    };
    mounts.map(|line| volume(line).with_context(|| format!("not followed: {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use rustix::thread::CapabilitySet;

    use super::{super::has, *};

    #[test]
    fn the_manifest_is_followed() {
        let volumes = volumes(DAEMONSET).unwrap();
        let proc = Volume { host: "/proc".into(), inside: "/host/proc".into(), read_only: true };
        assert!(volumes.contains(&proc), "{volumes:?}");
        let writable: Vec<_> = volumes.iter().filter(|volume| !volume.read_only).collect();
        let [recordings] = &writable[..] else { panic!("{writable:?}") };
        assert_eq!(recordings.inside, "/var/lib/netdiag");
        let capabilities = capabilities_of(DAEMONSET).unwrap();
        assert!(capabilities.contains(&"CAP_SYS_ADMIN".to_owned()), "{capabilities:?}");
        assert!(capabilities.iter().all(|name| has(CapabilitySet::all(), name)));
        assert!(
            DAEMONSET.contains("drop: [ALL]") && DAEMONSET.contains("readOnlyRootFilesystem: true")
        );
    }
}
