//! What runs that were killed at the wrong moment have left in a directory.

use std::{ffi::CStr, fs::File, os::fd::AsFd, path::Path, process};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, fstat, openat, unlinkat},
    io::Errno,
    process::geteuid,
};

/// Removes the files of runs that are gone whose names are `prefix` and so many `numbers` with dots between them, the
/// first one the process id. Plain files of this user that nobody has locked, since who is in another PID namespace
/// seems to be gone. No link is followed, and what cannot be removed stays.
pub(crate) fn remove_left(directory: impl AsFd, prefix: &str, numbers: usize) {
    let Ok(entries) = Dir::read_from(&directory) else { return };
    for entry in entries.map_while(Result::ok) {
        let name = entry.file_name();
        let maker = name.to_str().ok().and_then(|name| maker(name, prefix, numbers));
        if maker.is_some_and(is_gone) && is_left(&directory, name) {
            let _stays = unlinkat(&directory, name, AtFlags::empty());
        }
    }
}

/// The process that such a name tells of.
fn maker(name: &str, prefix: &str, numbers: usize) -> Option<u32> {
    // As they are written, and not otherwise.
    let number = |text: &str| text.parse().ok().filter(|number: &u32| number.to_string() == text);
    let told: Option<Vec<_>> = name.strip_prefix(prefix)?.split('.').map(number).collect();
    told.filter(|told| told.len() == numbers)?.first().copied()
}

/// Whether a process ended. In a container all runs may have the number of this one.
fn is_gone(pid: u32) -> bool {
    let procfs = Path::new("/proc");
    pid == process::id() || procfs.join("self").exists() && !procfs.join(pid.to_string()).exists()
}

fn is_left(directory: impl AsFd, name: &CStr) -> bool {
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let is_left = || {
        let file = File::from(openat(directory, name, flags, Mode::empty())?);
        let stat = fstat(&file)?;
        let is_plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let is_ours = stat.st_nlink == 1 && stat.st_uid == geteuid().as_raw();
        Ok::<_, Errno>(is_plain && is_ours && file.try_lock().is_ok())
    };
    is_left().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn what_is_not_certainly_left_stays() {
        let root = tempfile::tempdir().expect("directory");
        let at = |name: &str| root.path().join(name);
        // No process has such a number.
        let gone = [u32::MAX, u32::MAX - 1].map(|pid| at(&format!(".probe-{pid}")));
        let mine = at(&format!(".probe-{}", process::id()));
        let names = [".probe-1", ".probe-x", ".probe-04294967295", ".probe-4294967295.0", "victim"];
        let stay = names.map(at);
        for path in gone.iter().chain([&mine]).chain(&stay) {
            fs::write(path, "it").expect("file");
        }
        symlink(at("victim"), at(".probe-4294967290")).expect("link");
        fs::hard_link(at(".probe-x"), at(".probe-4294967291")).expect("link");
        fs::create_dir(at(".probe-4294967292")).expect("directory");
        let written = File::create(at(".probe-4294967293")).expect("file");
        written.try_lock().expect("locked");
        remove_left(File::open(root.path()).expect("directory"), ".probe-", 1);
        assert!(!gone.iter().any(|path| path.exists()) && !mine.exists());
        assert!(stay.iter().all(|path| path.exists()));
        for number in 4_294_967_290_u32..=4_294_967_293 {
            assert!(at(&format!(".probe-{number}")).symlink_metadata().is_ok(), "{number}");
        }
        assert_eq!(fs::read_to_string(at("victim")).expect("file"), "it");
    }

    #[test]
    fn names_tell_who_made_them() {
        assert_eq!(maker(".page.7.0", ".page.", 2), Some(7));
        for name in ["page.7.0", ".page.7", ".page.7.0.0", ".page.7.", ".page.+7.0", ".page.html.7"]
        {
            assert_eq!(maker(name, ".page.", 2), None, "{name}");
        }
    }
}
