//! [`replace_together`]: files of one folder that change in one step, as Kubernetes changes those of a secret.
//!
//! ```text
//! tls.key -> ..data/tls.key    ..data -> ..1764142290123456789/    holds tls.key, tls.crt, ca.crt
//! ```
//!
//! What is new is written into a folder of its own, and one rename turns `..data` to it. A run that is ended at any
//! moment leaves all files as they were or all of them new; it may leave a folder that nothing points to, which a later run
//! takes away. Plain files become links first, and what is read by their names stays the same meanwhile.

use std::{
    fs,
    io::{self, ErrorKind},
    os::unix::fs::{DirBuilderExt, symlink},
    path::Path,
    time::{Duration, SystemTime},
};

use crate::{
    Error,
    files::{Access, failed, sync, write_new},
};

/// The link that is turned.
const DATA: &str = "..data";

/// An hour: what is older and not pointed to was left behind, and is not being written.
const LEFT_BEHIND: Duration = Duration::from_hours(1);

/// A file by its name, with what it is to hold and who may read it.
pub(crate) type File<'a> = (&'a str, &'a str, Access);

/// Writes or replaces `files` of `folder`.
pub(crate) fn replace_together(folder: &Path, files: &[File<'_>]) -> Result<(), Error> {
    adopt(folder, files)?;
    turn_to(folder, &write(folder, files)?)
}

/// Makes links of plain files.
fn adopt(folder: &Path, files: &[File<'_>]) -> Result<(), Error> {
    let plain: Vec<&str> = files.iter().map(|(name, ..)| *name).filter(|name| !is_linked(folder, name)).collect();
    if plain.is_empty() {
        return Ok(());
    }
    let mut there = Vec::new();
    for (name, _, access) in files {
        match fs::read_to_string(folder.join(name)) {
            Ok(text) => there.push((*name, text, *access)),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&folder.join(name))(error)),
        }
    }
    let there: Vec<File<'_>> = there.iter().map(|(name, text, access)| (*name, text.as_str(), *access)).collect();
    turn_to(folder, &write(folder, &there)?)?;
    plain.into_iter().try_for_each(|name| link(folder, name, &target(name)))
}

/// Writes `files` into a new folder beside them, and says its name.
fn write(folder: &Path, files: &[File<'_>]) -> Result<String, Error> {
    let name = format!("..{}", unix_nano_now());
    let path = folder.join(&name);
    // who may read what is said by the files, and by the folder they are in
    fs::DirBuilder::new().mode(0o755).create(&path).map_err(failed(&path))?;
    for (file, text, access) in files {
        let file = path.join(file);
        write_new(&file, text, *access).map_err(failed(&file))?;
    }
    sync(&path)?;
    Ok(name)
}

/// The one step.
fn turn_to(folder: &Path, name: &str) -> Result<(), Error> {
    let before = fs::read_link(folder.join(DATA)).ok();
    link(folder, DATA, Path::new(name))?;
    let before = before.as_ref().and_then(|before| before.to_str());
    let others = fs::read_dir(folder).map_err(failed(folder))?.flatten();
    for other in others.filter(|other| other.file_name().to_str().is_some_and(|other| is_over(other, name, before))) {
        // it is not pointed to any more, and harmless
        let _ = fs::remove_dir_all(other.path());
    }
    Ok(())
}

/// Whether the folder `other` has served.
fn is_over(other: &str, now: &str, before: Option<&str>) -> bool {
    let number = |name: &str| name.strip_prefix("..")?.parse::<u128>().ok();
    let (Some(written), Some(newest)) = (number(other), number(now)) else { return false };
    other != now && (before == Some(other) || written + LEFT_BEHIND.as_nanos() < newest)
}

/// Puts a link in place of whatever has its name.
fn link(folder: &Path, name: &str, target: &Path) -> Result<(), Error> {
    let (path, aside) = (folder.join(name), folder.join(format!(".{name}.{}", std::process::id())));
    let replace = || {
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(target, &aside)?;
        fs::rename(&aside, &path)
    };
    let replaced: io::Result<()> = replace();
    replaced.map_err(failed(&path))?;
    sync(folder)
}

fn is_linked(folder: &Path, name: &str) -> bool {
    fs::read_link(folder.join(name)).is_ok_and(|to| to == target(name))
}

fn target(name: &str) -> std::path::PathBuf {
    Path::new(DATA).join(name)
}

fn unix_nano_now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const NAMES: [&str; 2] = ["tls.key", "tls.crt"];

    fn pair(text: &str) -> [File<'_>; 2] {
        [(NAMES[0], text, Access::Owner), (NAMES[1], text, Access::Public)]
    }

    fn read(folder: &Path) -> [String; 2] {
        NAMES.map(|name| fs::read_to_string(folder.join(name)).unwrap())
    }

    fn plain(folder: &Path) {
        for (name, text, access) in pair("old") {
            write_new(&folder.join(name), text, access).unwrap();
        }
    }

    /// A run that is ended between the renames of key and certificate: the key that it left was not the certificate's.
    #[test]
    fn a_run_that_is_ended_at_any_step_leaves_a_pair_that_fits() {
        // steps: written aside, turned to, the first name linked, the second, the new pair written
        for ended_after in 0..5 {
            let dir = tempfile::tempdir().unwrap();
            let folder = dir.path();
            plain(folder);
            let old = write(folder, &pair("old")).unwrap();
            if ended_after > 0 {
                turn_to(folder, &old).unwrap();
            }
            for name in NAMES.iter().take(ended_after.max(1) - 1) {
                link(folder, name, &target(name)).unwrap();
            }
            if ended_after == 4 {
                write(folder, &pair("never turned to")).unwrap();
            }
            assert_eq!(read(folder), ["old", "old"], "ended after {ended_after}");
            replace_together(folder, &pair("new")).unwrap();
            assert_eq!(read(folder), ["new", "new"], "ended after {ended_after}");
        }
    }

    #[test]
    fn both_change_in_one_step_and_what_has_served_goes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        plain(folder);
        replace_together(folder, &pair("1")).unwrap();
        let new = write(folder, &pair("2")).unwrap();
        assert_eq!(read(folder), ["1", "1"], "not before the step");
        turn_to(folder, &new).unwrap();
        assert_eq!(read(folder), ["2", "2"]);
        assert_eq!(fs::read_dir(folder).unwrap().count(), 4, "two names, the link, one folder");
        let mode = |name: &str| fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(NAMES.map(mode), [0o600, 0o644]);
    }

    #[test]
    fn a_disk_that_refuses_leaves_all_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        plain(folder);
        let into_nowhere = [pair("new")[0], ("gone/tls.crt", "new", Access::Public)];
        assert!(matches!(replace_together(folder, &into_nowhere), Err(Error::File { .. })));
        assert_eq!(read(folder), ["old", "old"]);
    }

    #[test]
    fn only_what_was_left_behind_long_ago_is_taken_away() {
        let hour = LEFT_BEHIND.as_nanos();
        for (other, before, expected) in [
            (format!("..{}", hour), None, false),
            ("..7".to_owned(), None, true),
            (format!("..{}", 2 * hour - 1), Some(2 * hour - 1), true),
            (format!("..{}", 2 * hour), Some(2 * hour), false),
            ("..data".to_owned(), None, false),
            ("tls.crt".to_owned(), None, false),
        ] {
            let before = before.map(|before| format!("..{before}"));
            assert_eq!(is_over(&other, &format!("..{}", 2 * hour), before.as_deref()), expected, "{other}");
        }
    }
}
