//! What machine this is: which kernel, emulated or not, locked down or not.

use std::{fs, time::Duration};

/// A kernel series, such as 6.12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series(pub u32, pub u32);

/// Release of the running kernel, such as `6.12.111-amd64`.
#[must_use]
pub fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Series of the running kernel.
///
/// # Panics
/// When the release does not start with two numbers.
#[must_use]
pub fn series() -> Series {
    let release = release();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Series(major, minor),
        _ => panic!("cannot read a series from kernel release {release}"),
    }
}

/// Whether a processor in software runs this kernel (QEMU without KVM), so that everything takes 10
/// to 50 times as long as on the machine below. Told by the hypervisor leaf 0x40000000 of CPUID.
#[must_use]
pub fn emulated() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        let leaf = std::arch::x86_64::__cpuid(0x4000_0000);
        let name = [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).concat();
        name == b"TCGTCGTCGTCG"
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// How long to wait for something that is certain to come, before the test says that it does not.
#[must_use]
pub fn patience() -> Duration {
    Duration::from_secs(if emulated() { 1200 } else { 90 })
}

/// Whether the clock of this emulated machine counts instructions (QEMU with `-icount`), by the word of who started
/// it: CPU times are then the same each time, whatever the machine below does.
#[must_use]
pub fn counts() -> bool {
    std::env::var_os("NETDIAG_EXPECT_COUNTED").is_some()
}

/// `full` on a real machine, `reduced` where every send costs a multiple.
#[must_use]
pub fn amount<T>(full: T, reduced: T) -> T {
    if emulated() { reduced } else { full }
}

/// Lockdown mode in force (`none`, `integrity`, `confidentiality`); `None` when the kernel has no
/// lockdown or securityfs is not mounted.
#[must_use]
pub fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    let start = modes.find('[')? + 1;
    let end = modes.find(']')?;
    modes.get(start..end).map(str::to_owned)
}

/// Waits until `done`, asking every 20 ms; false when [`patience`] ran out first.
pub fn wait_until(mut done: impl FnMut() -> bool) -> bool {
    let start = std::time::Instant::now();
    while !done() {
        if start.elapsed() > patience() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}
