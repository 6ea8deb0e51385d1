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
        write_new(&aside, text, access)
    };
    write().map_err(failed(&aside))?;
    Ok(aside)
}

/// A file that nobody has yet, on the disk when this returns.
pub(crate) fn write_new(path: &Path, text: &str, access: Access) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(access.mode()).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn sync_folder(path: &Path) -> Result<(), Error> {
    sync(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

/// Puts on the disk what was renamed in `folder`.
pub(crate) fn sync(folder: &Path) -> Result<(), Error> {
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
}

pub(crate) fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error {
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
    fn a_folder_that_is_not_there_is_named() {
        let why = create(Path::new("/nowhere/x.crt"), "one", Access::Public).unwrap_err().to_string();
        assert!(why.starts_with("/nowhere/"), "{why}");
    }
}
