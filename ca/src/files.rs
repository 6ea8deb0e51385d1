//! Files that appear whole: written aside, synced, then put in place in one step.
//!
//! [`create`] never replaces (a link fails where a name is taken, so two calls cannot both win);
//! [`replace`] does, and a reader sees the old or the new content, never half of one.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::Error;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody: certificates.
    Public,
    /// Its owner alone: keys.
    Owner,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Owner => 0o600,
        }
    }
}

/// Writes a file that must not exist.
///
/// # Errors
/// [`Error::Exists`] when it does, [`Error::File`] when the disk refuses.
pub fn create(path: &Path, text: &str, access: Access) -> Result<(), Error> {
    let aside = write_aside(path, text, access)?;
    let linked = fs::hard_link(&aside, path);
    // the name aside has served; a leftover is harmless
    let _ = fs::remove_file(&aside);
    match linked {
        Ok(()) => sync_folder(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::Exists { path: path.to_owned() }),
        Err(source) => Err(Error::File { path: path.to_owned(), source }),
    }
}

/// Writes a file, or replaces it.
///
/// # Errors
/// [`Error::File`] when the disk refuses.
pub fn replace(path: &Path, text: &str, access: Access) -> Result<(), Error> {
    let aside = write_aside(path, text, access)?;
    fs::rename(&aside, path).map_err(failed(path))?;
    sync_folder(path)
}

/// Writes or replaces several files of one folder: first all of them aside, then each in place, so that a run that is ended
/// meanwhile leaves the old ones unless it ends between two renames.
///
/// # Errors
/// [`Error::File`] when the disk refuses.
pub fn replace_all(files: &[(&Path, &str, Access)]) -> Result<(), Error> {
    let aside = |(path, text, access): &(&Path, &str, Access)| write_aside(path, text, *access);
    let written = files.iter().map(aside).collect::<Result<Vec<_>, _>>()?;
    for (aside, (path, ..)) in written.iter().zip(files) {
        fs::rename(aside, path).map_err(failed(path))?;
    }
    files.last().map_or(Ok(()), |(path, ..)| sync_folder(path))
}

/// Makes a folder that only its owner can enter, if it is missing.
///
/// # Errors
/// [`Error::File`] when the disk refuses.
pub fn folder(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))
}

pub(crate) fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(failed(path))
}

fn write_aside(path: &Path, text: &str, access: Access) -> Result<PathBuf, Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        // what a killed run left behind may be readable by others: it is not written into
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(&aside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(failed(&aside))?;
    Ok(aside)
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_created_once_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.key");
        create(&path, "one", Access::Owner).unwrap();
        assert!(matches!(create(&path, "two", Access::Owner), Err(Error::Exists { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        replace(&path, "three", Access::Owner).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "three");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left aside");
    }

    #[test]
    fn several_files_are_replaced_together_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        replace_all(&[(&one, "1", Access::Owner), (&two, "2", Access::Public)]).unwrap();
        let gone = dir.path().join("gone/two");
        assert!(replace_all(&[(&one, "3", Access::Owner), (&gone, "4", Access::Public)]).is_err());
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        assert_eq!((read(&one), read(&two)), ("1".to_owned(), "2".to_owned()));
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let why = create(Path::new("/nowhere/x.crt"), "one", Access::Public).unwrap_err().to_string();
        assert!(why.starts_with("/nowhere/"), "{why}");
    }
}
